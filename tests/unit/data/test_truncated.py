"""A file whose end is missing: found in every format that states its length, and usable if a setting says so."""

import errno
import io
from pathlib import Path

import pytest

from ssr1_rl.data.audio import AudioError, AudioUnavailable, load_waveform
from ssr1_rl.types import SAMPLE_RATE, AudioRef
from tests.unit.data.media import media_bytes, noise, sound_bytes

SOUND = [
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM", "GSM610")),
    *(("RF64", "PCM_16"), ("W64", "PCM_16"), ("W64", "MS_ADPCM"), ("WAVEX", "PCM_16"), ("AIFF", "PCM_16")),
    *(("AIFF", "FLOAT"), ("AU", "PCM_16"), ("AU", "G721_32"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("SVX", "PCM_16")),
    *(("NIST", "PCM_16"), ("NIST", "ULAW"), ("VOC", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")),
]
MEDIA = [
    *(("mp4", "aac"), ("mov", "aac"), ("ipod", "alac"), ("3gp", "aac"), ("ismv", "aac"), ("matroska", "flac")),
    *(("matroska", "pcm_s16le"), ("webm", "libopus"), ("avi", "pcm_s16le"), ("avi", "libmp3lame"), ("flv", "aac")),
    *(("flv", "libmp3lame"), ("asf", "wmav2"), ("ogg", "flac"), ("wav", "adpcm_ms"), ("tta", "tta"), ("wv", "wavpack")),
    *(("adts", "aac"), ("latm", "aac"), ("amr", "libopencore_amrnb")),
]
"""The last line states no length, but a frame that is cut cannot be decoded."""


def load(path, **options):
    return load_waveform(AudioRef(str(path)), max_audio_s=30.0, **options)


def in_media(format, codec, options=None):
    rate = {"libopus": 48_000, "libopencore_amrnb": 8_000}.get(codec, 44_100 if format == "flv" else 16_000)
    return media_bytes(format, codec, noise(4, rate), rate, bit_rate=0 if "amr" in codec else 64_000, options=options)


def check(path, data):
    path.write_bytes(data)
    whole = load(path)
    assert len(whole) == pytest.approx(4 * SAMPLE_RATE, abs=3000)
    for share in (0.5, 0.8):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(AudioError, match=r"clip\.bin: .*(truncated|corrupt)"):
            load(path)


@pytest.mark.parametrize(("format", "subtype"), SOUND, ids=str)
def test_sound_file_cut_short(tmp_path, format, subtype):
    check(tmp_path / "clip.bin", sound_bytes(format, subtype, noise(4)))


@pytest.mark.parametrize(("format", "codec"), MEDIA, ids=str)
def test_media_file_cut_short(tmp_path, format, codec):
    check(tmp_path / "clip.bin", in_media(format, codec))


def test_mp4_with_its_index_first(tmp_path):
    check(tmp_path / "clip.bin", in_media("mp4", "aac", {"movflags": "faststart"}))
    check(tmp_path / "clip.bin", in_media("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}))


@pytest.mark.parametrize(("format", "codec"), [*SOUND, *MEDIA], ids=str)
def test_what_is_left_is_used_if_the_setting_says_so(tmp_path, format, codec):
    if (format, codec) in (("mp4", "aac"), ("mov", "aac"), ("ipod", "alac"), ("3gp", "aac")):
        data = in_media(format, codec, {"movflags": "faststart"})
    elif (format, codec) in MEDIA:
        data = in_media(format, codec)
    else:
        data = sound_bytes(format, codec, noise(4))
    path = tmp_path / "clip.bin"
    path.write_bytes(data)
    whole = load(path, truncated_audio="use")
    path.write_bytes(data[: int(0.6 * len(data))])
    try:
        left = load(path, truncated_audio="use")
    except AudioError as error:
        # These have nothing to decode without their end.
        assert (format, codec) in (("tta", "tta"), ("wv", "wavpack"), ("CAF", "ALAC_16")), error
        return
    assert 0.3 * len(whole) < len(left) < 0.7 * len(whole)


@pytest.mark.parametrize("num_bytes", [1, 40])
def test_a_header_that_counts_itself_is_no_lie(tmp_path, num_bytes):
    path = tmp_path / "clip.wav"
    path.write_bytes(sound_bytes("WAV", "PCM_16", noise(1))[:-num_bytes])
    assert len(load(path)) == SAMPLE_RATE - -(-num_bytes // 2)


def test_what_follows_the_sound_is_no_part_of_it(tmp_path):
    path = tmp_path / "clip.bin"
    for data in (
        sound_bytes("WAV", "PCM_16", noise(4)),
        in_media("mp4", "aac"),
        sound_bytes("OGG", "VORBIS", noise(4)),
    ):
        path.write_bytes(data + b"TAG" + bytes(125))
        assert len(load(path)) == pytest.approx(4 * SAMPLE_RATE, abs=3000)


class FailsAt(io.FileIO):
    """A file on a disk that fails from a certain byte on."""

    def __init__(self, path, code, start):
        super().__init__(path)
        self._code, self._start = code, start

    def readinto(self, buffer):
        if self.tell() >= self._start:
            raise OSError(self._code, "the disk failed")
        return super().readinto(memoryview(buffer)[: self._start - self.tell()])


@pytest.mark.parametrize("start", [0, 16, 5000])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_fails_is_not_the_files_fault(tmp_path, monkeypatch, capfd, code, start):
    path = tmp_path / "clip.bin"
    monkeypatch.setattr(Path, "open", lambda path, *_, **__: io.BufferedReader(FailsAt(path, code, start), 1000))
    for data in (
        sound_bytes("WAV", "PCM_16", noise(4)),
        sound_bytes("FLAC", "PCM_16", noise(4)),
        sound_bytes("OGG", "VORBIS", noise(4)),
        sound_bytes("MP3", "MPEG_LAYER_III", noise(4)),
        in_media("mp4", "aac"),
        in_media("matroska", "flac"),
    ):
        with open(path, "wb") as file:
            file.write(data)
        with pytest.raises(AudioUnavailable, match=r"clip\.bin: cannot be read \(the disk failed\)"):
            load(path)
        with pytest.raises(AudioUnavailable, match="cannot be read"):
            load(path, truncated_audio="use")
    assert "Traceback" not in capfd.readouterr().err


def test_a_file_that_may_not_be_read_stays_so(tmp_path, monkeypatch):
    path = tmp_path / "clip.wav"
    path.write_bytes(sound_bytes("WAV", "PCM_16", noise(1)))

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(AudioError, match=r"clip\.wav: cannot be read \(Permission denied\)") as caught:
        load(path)
    assert not isinstance(caught.value, AudioUnavailable)
