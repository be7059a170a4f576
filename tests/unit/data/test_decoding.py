"""Which decoder reads a clip, what it must never do, and what a broken file may say of itself."""

import io
import itertools
import os
import socket
import struct

import numpy as np
import pytest
import soundfile
import soxr

from ssr1_rl.data.audio import MAX_LEVEL, AudioError, load_waveform
from ssr1_rl.data.decode.mono import MonoSamples
from ssr1_rl.types import SAMPLE_RATE, AudioRef
from tests.unit.data.media import media_bytes, noise, sound_bytes

NAMES = [
    "clip",
    "CLIP.WAV",
    "clip.MP4",
    "http:clip.wav",
    "concat:a|b",
    "-i",
    "file:x",
    "a\nb.ogg",
    "%03d.wav",
    "ü\udcff",
]


def load(path, max_audio_s=30.0, **options):
    return load_waveform(AudioRef(str(path)), max_audio_s=max_audio_s, **options)


@pytest.fixture
def put(tmp_path):
    """Writes a clip's bytes, and returns its path."""

    def put(data, name="clip.wav"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put


@pytest.fixture(scope="module")
def film():
    return media_bytes("mp4", "aac", noise(2), video=True)


@pytest.mark.parametrize("max_audio_s", [1.0, 30.0])
@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize(
    ("format", "channels"), [*itertools.product(("WAV", "FLAC", "OGG"), (1, 2, 6)), ("MP3", 1), ("MP3", 2)]
)
def test_samples_are_those_of_soundfile_and_soxr_bit_for_bit(tmp_path, format, rate, max_audio_s, channels):
    path = tmp_path / "clip"
    with path.open("wb") as file:
        soundfile.write(file, noise(3 * channels, rate).reshape(-1, channels), rate, format=format)
    samples, rate = soundfile.read(path, int((max_audio_s + 1) * rate), dtype="float32", always_2d=True)
    mono = samples.mean(axis=1, dtype=np.float32)
    expected = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)
    found, expected = load(path, max_audio_s), expected[: int(max_audio_s * SAMPLE_RATE)]
    # mpg123 itself differs in the last bit from one read to the next, by where its buffers lie.
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-7 if format == "MP3" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_content_decides_the_decoder_whatever_the_name(put, film, name):
    assert len(load(put(film, name))) == pytest.approx(2 * SAMPLE_RATE, abs=2000)
    assert len(load(put(sound_bytes("WAV", "PCM_16", noise(1)), name))) == SAMPLE_RATE


def test_a_relative_name_is_no_option_and_no_address(put, film, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("-version", "http:clip.mp4", "pipe:0"):
        put(film, name)
        assert len(load(name)) == pytest.approx(2 * SAMPLE_RATE, abs=2000)


def playlists(address):
    yield f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n".encode()
    yield f"ffconcat version 1.0\nfile '{address}'\n".encode()
    yield (
        b'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        b'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period><AdaptationSet '
        b'mimeType="audio/mp4"><Representation id="1" bandwidth="1"><BaseURL>%s</BaseURL></Representation>'
        b"</AdaptationSet></Period></MPD>" % address.encode()
    )
    yield b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"
    yield f"[Reference]\nRef1={address}?MSWMExt=.asf\n".encode()
    yield f"RTSPtext\n{address}\n".encode()


@pytest.mark.parametrize("suffix", [".m3u8", ".ffconcat", ".mpd", ".sdp", ".wav"])
def test_a_playlist_opens_neither_an_address_nor_another_file(put, suffix):
    other = put(sound_bytes("WAV", "PCM_16", noise(1)), "other.wav")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for address in (f"http://127.0.0.1:{port}/a.ts", f"tcp://127.0.0.1:{port}", f"file:{other}", "other.wav"):
            for playlist in playlists(address):
                with pytest.raises(AudioError, match="clip"):
                    load(put(playlist, f"clip{suffix}"))
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_reference_movie_does_not_open_the_file_that_it_names(put):
    """Its sound would be in another file, named by a Macintosh alias in `dref`."""
    put(sound_bytes("WAV", "PCM_16", noise(1)), "other.wav")
    name = b"other.wav"
    alias = struct.pack(">IH", 0, 150)[:6] + bytes(4) + b"\x00".ljust(28, b"\0") + bytes(12)
    alias += bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 1, 1) + bytes(16)
    alias += struct.pack(">hh", 2, len(name)) + name.ljust(len(name) + len(name) % 2, b"\0") + struct.pack(">hh", -1, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    path = [b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"]
    movie = with_box(media_bytes("mov", "pcm_s16le", noise(1)), path, entry)
    assert b"alis" in movie
    with pytest.raises(AudioError, match="clip"):
        load(put(movie))


def with_box(data, names, entry):
    """The movie with another first entry in its `dref`; boxes around it grow. `moov` is last, so no offset changes."""
    starts, position = [], 0
    for name in names:
        while data[position + 4 : position + 8] != name:
            position += int.from_bytes(data[position : position + 4], "big")
        starts.append(position)
        position += 8
    old = data[position + 8 :][: int.from_bytes(data[position + 8 : position + 12], "big")]
    out = bytearray(data[: position + 8] + entry + data[position + 8 + len(old) :])
    for start in starts:
        size = int.from_bytes(out[start : start + 4], "big") + len(entry) - len(old)
        out[start : start + 4] = size.to_bytes(4, "big")
    return bytes(out)


@pytest.mark.parametrize("format", ["mp4", "matroska", "mov", "flv"])
def test_a_title_that_is_not_utf_8_is_ignored(put, format):
    data = media_bytes(format, "aac", noise(1), metadata={"title": "CaféXYZ"})
    latin = data.replace("CaféXYZ".encode(), b"Caf\xe9\xffXYZ")
    assert latin != data
    assert len(load(put(latin))) == pytest.approx(SAMPLE_RATE, abs=2500)


def test_a_codec_without_decoder_is_named(put):
    data = media_bytes("mp4", "flac", noise(1), options={"strict": "-2"}).replace(b"fLaC", b"mhm1", 1)
    with pytest.raises(AudioError, match=r"clip\.wav: PyAV has no decoder for its sound \(mpegh_3d_audio.*convert it"):
        load(put(data))
    unknown = media_bytes("matroska", "flac", noise(1)).replace(b"A_FLAC", b"A_XXXX")
    with pytest.raises(AudioError, match=r"PyAV has no decoder for its sound \(none"):
        load(put(unknown))


def test_a_video_without_sound_says_so(put):
    with pytest.raises(AudioError, match=r"clip\.wav: has no audio stream \(it has video\)"):
        load(put(media_bytes("mp4", "aac", [], video=True)))


def test_of_several_audio_streams_the_default_is_used_or_else_the_first(put):
    first, second = noise(1), noise(2)
    for default, seconds in ((0, 1), (1, 2)):
        data = media_bytes("matroska", "pcm_s16le", [first, second], default=default)
        assert len(load(put(data))) == seconds * SAMPLE_RATE


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "pcm_u8", "pcm_f32le", "pcm_f64le", "flac"])
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_every_sample_format_of_ffmpeg_has_the_same_scale(put, codec, layout):
    if codec == "pcm_u8":
        data = media_bytes("avi", codec, noise(1), layout=layout)
    else:
        data = media_bytes("matroska", codec, noise(1), layout=layout)
    # Mono to stereo keeps the power, so that each channel has less.
    expected = noise(1) * (1 if layout == "mono" else np.sqrt(0.5))
    np.testing.assert_allclose(load(put(data)), expected, atol=2**-7 if codec == "pcm_u8" else 2**-14)


def patched(data, at, value):
    return data[:at] + value + data[at + len(value) :]


WAV = sound_bytes("WAV", "PCM_16", noise(1))
DATA_SIZE = WAV.index(b"data") + 4


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE])
def test_a_wav_written_to_a_pipe_is_read_whole(put, size):
    header = patched(patched(WAV, DATA_SIZE, struct.pack("<I", size)), 4, struct.pack("<I", size))
    assert len(load(put(header))) == SAMPLE_RATE


def test_files_of_unknown_length_are_read_whole(put):
    flac = sound_bytes("FLAC", "PCM_16", noise(1))
    assert len(load(put(patched(flac, 21, bytes([flac[21] & 0xF0]) + bytes(4))))) == SAMPLE_RATE
    au = sound_bytes("AU", "PCM_16", noise(1))
    assert len(load(put(patched(au, 8, b"\xff" * 4)))) == SAMPLE_RATE
    live = media_bytes("webm", "libopus", noise(2, 48_000), 48_000, options={"live": "1"})
    assert len(load(put(live))) == pytest.approx(2 * SAMPLE_RATE, abs=2500)
    with pytest.raises(AudioError, match="truncated, an element promises"):
        load(put(live[: len(live) // 2]))
    fragments = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "200000"}
    assert len(load(put(media_bytes("mp4", "aac", noise(2), options=fragments)))) == pytest.approx(32_000, abs=2500)


def test_an_mp3_that_states_no_length_is_read_to_its_end(put):
    plain = {"write_xing": "0", "id3v2_version": "0"}
    high = media_bytes("mp3", "libmp3lame", noise(5, 44_100), 44_100, bit_rate=320_000, options=plain)
    low = media_bytes("mp3", "libmp3lame", noise(5, 44_100), 44_100, bit_rate=40_000, options=plain)
    for data in (high + low, low + high):
        assert len(load(put(data))) == pytest.approx(10.08 * SAMPLE_RATE, abs=1500)


@pytest.mark.parametrize("rate", [0, 1, 999, 1_000_001, 10**9, 2**32 - 1])
def test_no_sound_has_such_a_sampling_rate(put, rate):
    with pytest.raises(AudioError, match=r"clip\.wav: corrupt"):
        load(put(patched(WAV, 24, struct.pack("<I", rate))))


@pytest.mark.parametrize("channels", [0, 1025, 65_535])
def test_no_file_has_so_many_channels(put, channels):
    with pytest.raises(AudioError, match=r"clip\.wav: corrupt"):
        load(put(patched(WAV, 22, struct.pack("<H", channels))))


@pytest.mark.parametrize("channels", [255, 1024])
def test_many_channels_take_no_more_memory_than_a_block(put, channels, monkeypatch):
    path = put(sound_bytes("WAV", "PCM_16", np.repeat(noise(0.5)[:, None], channels, axis=1)))
    one = load(put(sound_bytes("WAV", "PCM_16", noise(0.5)), "mono.wav"))
    largest, empty = [], np.empty
    monkeypatch.setattr(np, "empty", lambda shape, *rest: largest.append(int(np.prod(shape))) or empty(shape, *rest))
    np.testing.assert_allclose(load(path), one, atol=1e-6)
    assert max(largest) <= 2**23


def test_a_flac_that_promises_days_is_refused_without_memory_for_them(put, monkeypatch):
    flac = sound_bytes("FLAC", "PCM_16", noise(1))
    bomb = patched(flac, 21, bytes([flac[21] | 0x0F]) + b"\xff" * 4)
    largest, empty = [], np.empty
    monkeypatch.setattr(np, "empty", lambda shape, *rest: largest.append(int(np.prod(shape))) or empty(shape, *rest))
    with pytest.raises(AudioError, match="truncated"):
        load(put(bomb))
    assert max(largest) <= 31 * SAMPLE_RATE


@pytest.mark.parametrize("long_audio", ["crop", "skip"])
def test_no_more_than_the_limit_and_a_second_is_decoded(put, film, monkeypatch, long_audio):
    decoded = []
    real_add = MonoSamples.add
    monkeypatch.setattr(MonoSamples, "add", lambda self, block: decoded.append(len(block)) or real_add(self, block))
    for data in (sound_bytes("FLAC", "PCM_16", noise(60)), media_bytes("matroska", "flac", noise(60))):
        decoded.clear()
        try:
            load(put(data), 2.0, long_audio=long_audio)
        except AudioError as error:
            assert long_audio == "skip" and "longer than data.max_audio_s=2.0" in str(error)
        assert sum(decoded) < 3.5 * SAMPLE_RATE


def test_samples_that_overflow_in_mixing_are_refused(put):
    loud = np.full((SAMPLE_RATE, 2), 3e38, np.float32)
    for value in (loud, np.where(np.arange(SAMPLE_RATE) % 2, 1e30, -1e30)):
        file = io.BytesIO()
        soundfile.write(file, value, 44_100, format="WAV", subtype="FLOAT")
        with pytest.raises(AudioError, match=r"clip\.wav: has samples beyond 2147483648, which is no sound"):
            load(put(file.getvalue()))


def test_whole_numbers_stored_as_floats_and_silence_are_sound(put):
    file = io.BytesIO()
    soundfile.write(file, noise(1) * MAX_LEVEL, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    assert np.isfinite(load(put(file.getvalue()))).all()
    assert not load(put(sound_bytes("WAV", "PCM_16", np.zeros(SAMPLE_RATE)))).any()


@pytest.mark.parametrize(
    "error",
    [
        *(MemoryError(), RecursionError("deep"), KeyError("x"), struct.error("s"), AttributeError("a")),
        *(UnicodeDecodeError("utf-8", b"", 0, 1, "r"), RuntimeError("r"), SystemError("s"), ZeroDivisionError()),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["soundfile.SoundFile", "av.open", "soxr.resample"])
def test_whatever_a_decoder_raises_makes_the_clip_unusable(put, film, monkeypatch, error, where):
    def fail(*args, **kwargs):
        raise error

    data = film if where == "av.open" else sound_bytes("WAV", "PCM_16", noise(1), 44_100)
    monkeypatch.setattr(where, fail)
    with pytest.raises(AudioError, match=r"clip\.wav: corrupt, or of an unknown format \(.*fetch or encode it again"):
        load(put(data))


def test_what_is_no_file_is_refused_without_opening_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match=r"pipe\.wav: is not a regular file"):
        load(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="is no file name"):
        load("a\0b.wav")
    with pytest.raises(AudioError, match="cannot be read"):
        load(tmp_path / ("x" * 300))
