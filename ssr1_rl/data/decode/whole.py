"""Tells from a file's own sizes whether its end is missing. Decoders read most truncated files without a word.

Every container states the size of its parts, which is compared with the size of the file. A writer that could not seek
back (to a pipe) left the size open, and such a file is taken as it is. FLAC, MP3 and a few rare formats state a number
of samples instead, which is compared after decoding. Streams of AAC, AMR or MPEG state nothing, nor do PVF and IRCAM.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.errors import AudioError
from ssr1_rl.data.decode.streams import MOST_PARTS, end_of_flv, end_of_matroska, end_of_ogg

_SLACK_BYTES = 64
"""Some writers count their own header as data."""

_OPEN_32, _OPEN_64 = 0x7F000000, 2**62
"""Sizes from here on stand for an open one. Writers to a pipe put 0, -1, or a size just below or above 2 GiB (SoX:
0x7f000000 and 0x7ffff000, arecord: 2^31)."""


def missing_end(file: ClipFile) -> str:
    """What a file that is shorter than it states lacks, empty for a whole one; goes back to the file's start."""
    file.seek(0)
    head = file.read(16)
    missing = next((find(file) for starts, find in _FORMATS if re.match(starts, head, re.DOTALL)), "")
    file.seek(0)
    return missing


def check_whole(file: ClipFile) -> None:
    """Refuses a file that is shorter than it states, and goes back to its start.

    Raises:
        AudioError: the end is missing.
    """
    if missing := missing_end(file):
        raise AudioError(f"{file.path}: truncated, {missing}; fetch it again, or set data.truncated_audio=use")


def _beyond(file: ClipFile, start: int, size: int, open_from: int = _OPEN_32) -> str:
    """Whether a part of `size` bytes from `start` reaches beyond the file's end."""
    num_missing = start + size - file.num_bytes
    if 0 < size < open_from and num_missing > _SLACK_BYTES:
        return f"its header promises {num_missing} bytes more than the file has"
    return ""


def _chunks(file: ClipFile, start: int, header: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and size of the content of each chunk; `header` is the `struct` of name and size."""
    width = struct.calcsize(header)
    for _ in range(MOST_PARTS):
        file.seek(start)
        packed = file.read(width)
        if len(packed) < width:
            return
        name, size = struct.unpack(header, packed)
        yield name, start + width, size
        # In IFF and RIFF a byte follows a chunk of odd size.
        start += width + max(size, 0) + (size % 2 if width == 8 else 0)


def _of_chunk(file: ClipFile, start: int, header: str, names: tuple[bytes, ...], open_from: int) -> str:
    found = (_beyond(file, at, size, open_from) for name, at, size in _chunks(file, start, header) if name in names)
    return next(found, "")


def _iff(file: ClipFile) -> str:
    return _of_chunk(file, 12, ">4sI", (b"SSND", b"BODY"), _OPEN_32)


def _caf(file: ClipFile) -> str:
    return _of_chunk(file, 8, ">4sq", (b"data",), _OPEN_64)


def _riff(file: ClipFile) -> str:
    return _of_chunk(file, 12, "<4sI", (b"data",), _OPEN_32)


def _rifx(file: ClipFile) -> str:
    return _of_chunk(file, 12, ">4sI", (b"data",), _OPEN_32)


def _avi(file: ClipFile) -> str:
    # A long AVI is several of these one after another.
    parts = [_beyond(file, at, size) for name, at, size in _chunks(file, 0, "<4sI") if name == b"RIFF"]
    return next(filter(None, parts), "")


def _rf64(file: ClipFile) -> str:
    size = 0
    for name, at, size_32 in _chunks(file, 12, "<4sI"):
        if name == b"ds64":
            file.seek(at + 8)
            size = int.from_bytes(file.read(8), "little")
        if name == b"data":
            return _beyond(file, at, size if size_32 == 0xFFFFFFFF else size_32, _OPEN_64)
    return ""


def _wave64(file: ClipFile) -> str:
    position = 40
    for _ in range(MOST_PARTS):
        file.seek(position)
        packed = file.read(24)
        size = int.from_bytes(packed[16:], "little")
        if len(packed) < 24 or size < 24:
            return ""
        if packed[:4] == b"data":
            return _beyond(file, position, size, _OPEN_64)
        position += size + -size % 8
    return ""


def _au(file: ClipFile) -> str:
    file.seek(0)
    head = file.read(12)
    start, size = struct.unpack(">2I" if head[:4] == b".snd" else "<2I", head[4:].ljust(8, b"\0"))
    return _beyond(file, start, size)


def _sphere(file: ClipFile) -> str:
    """NIST SPHERE, the format of TIMIT and other speech corpora."""
    file.seek(0)
    text = file.read(1024)
    header = re.match(rb"NIST_1A\n\s*(\d{1,6})\n", text)
    coding = re.search(rb"sample_coding -s\d+ (\S+)", text)
    if not header or (coding and coding[1] not in (b"pcm", b"ulaw", b"alaw", b"mu-law")):
        return ""
    numbers = {name: int(value) for name, value in re.findall(rb"(\w+) -(?:i|s\d+) (\d{1,12})\b", text)}
    width = numbers.get(b"sample_n_bytes", 0) * numbers.get(b"channel_count", 1)
    return _beyond(file, int(header[1]), numbers.get(b"sample_count", 0) * width, _OPEN_64)


def _voc(file: ClipFile) -> str:
    position = 26
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4 or not head[0]:
            return ""
        size = int.from_bytes(head[1:], "little")
        if missing := _beyond(file, position + 4, size):
            return missing
        position += 4 + size
    return ""


def _mp4(file: ClipFile) -> str:
    position = 0
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8:
            return ""
        # Anything may follow the last box, so only those that hold the film count.
        if name in (b"mdat", b"moov", b"moof") and (missing := _beyond(file, position, size, _OPEN_64)):
            return missing
        position += size
    return ""


def _asf(file: ClipFile) -> str:
    file.seek(0)
    header = file.read(2**16)
    start = header.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    properties = header[start : start + 92]
    if start < 0 or len(properties) < 92:
        return ""
    (size,), (flags,) = struct.unpack_from("<Q", properties, 40), struct.unpack_from("<I", properties, 88)
    is_live = flags & 1
    return "" if is_live else _beyond(file, 0, size, _OPEN_64)


_FORMATS: tuple[tuple[bytes, Callable[[ClipFile], str]], ...] = (
    (rb"RIFF....AVI ", _avi),
    (rb"RIFF", _riff),
    (rb"RIFX", _rifx),
    (rb"RF64|BW64", _rf64),
    (rb"riff\x2e\x91\xcf\x11", _wave64),
    (rb"FORM....(AIF[FC]|8SVX|16SV)", _iff),
    (rb"\.snd|dns\.", _au),
    (rb"caff", _caf),
    (rb"NIST_1A", _sphere),
    (rb"Creative Voice F", _voc),
    (rb"....(ftyp|moov|mdat|free|skip|wide|pnot)", _mp4),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _asf),
    (rb"\x1a\x45\xdf\xa3", end_of_matroska),
    (rb"OggS", end_of_ogg),
    (rb"FLV", end_of_flv),
)
"""How a format begins, and what finds its missing end."""
