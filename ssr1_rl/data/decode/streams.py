"""Whether files that are written as a stream have their end: Ogg, Matroska and WebM, FLV.

Each function returns what is missing, and an empty text for a whole file.
"""

from __future__ import annotations

import struct

from ssr1_rl.data.decode.clip_file import ClipFile

MOST_PARTS = 100_000
"""Parts looked at before the end is taken for granted: a broken file may have millions of empty ones."""

_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_END_OF_STREAM = 4

_MATROSKA_SEGMENT = 0x18538067


def end_of_ogg(file: ClipFile) -> str:
    """The last page must be whole, and marked as the end of its stream (RFC 3533, section 6)."""
    file.seek(max(0, file.num_bytes - 2 * _LARGEST_OGG_PAGE))
    tail = file.read(2 * _LARGEST_OGG_PAGE)
    page = tail[max(0, tail.rfind(b"OggS\0")) :]
    sizes = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(sizes):
        return "its last page is cut"
    return "" if page[5] & _END_OF_STREAM else "its last page does not end the stream"


def end_of_matroska(file: ClipFile) -> str:
    """No element (RFC 8794) may reach beyond the end of the file.

    A live recording (the browsers' MediaRecorder) leaves the sizes of segment and clusters open, but not those of the
    blocks in them.
    """
    position = 0
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(12)
        id_length = _length(head, 4)
        size_length = _length(head[id_length:], 8)
        if not id_length or not size_length or len(head) < id_length + size_length:
            return ""
        identity = int.from_bytes(head[:id_length], "big")
        unmarked = (1 << 7 * size_length) - 1
        size = int.from_bytes(head[id_length : id_length + size_length], "big") & unmarked
        position += id_length + size_length
        if size == unmarked:
            # Of unknown size: its first child follows.
            continue
        if position + size > file.num_bytes:
            return f"an element promises {position + size - file.num_bytes} bytes more than the file has"
        if identity == _MATROSKA_SEGMENT:
            return ""
        position += size
    return ""


def _length(head: bytes, most: int) -> int:
    """Bytes of the number that `head` begins with, as its first byte's leading zeros tell; 0 if it is none."""
    length = 9 - head[0].bit_length() if head else 0
    return length if 0 < length <= most else 0


def end_of_flv(file: ClipFile) -> str:
    """No tag may reach beyond the end of the file, which must be as long as its first tag says, if it does."""
    file.seek(0)
    head = file.read(1024)
    stated = head.find(b"\x00\x08filesize\x00")
    if stated >= 0 and len(number := head[stated + 11 : stated + 19]) == 8:
        (num_bytes,) = struct.unpack(">d", number)
        if file.num_bytes < num_bytes < 2**62:
            return f"its header promises {num_bytes - file.num_bytes:.0f} bytes more than the file has"
    file.seek(5)
    position = int.from_bytes(file.read(4), "big") + 4
    for _ in range(MOST_PARTS):
        file.seek(position)
        head = file.read(4)
        if len(head) < 4:
            return ""
        end = position + 11 + int.from_bytes(head[1:], "big")
        if end > file.num_bytes:
            return f"a tag promises {end - file.num_bytes} bytes more than the file has"
        position = end + 4
    return ""
