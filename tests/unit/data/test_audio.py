"""Decoding clips: every way in which a file can be bad, and the formats that are fine."""

import pickle
import sys

import av
import numpy as np
import pytest
import soundfile

from ssr1_rl.data.audio import MIN_SAMPLES, AudioError, check_decoders, load_waveform
from ssr1_rl.errors import UserError
from ssr1_rl.types import SAMPLE_RATE, AudioRef


def tone(seconds, rate=SAMPLE_RATE, pitch_hz=440.0):
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(round(seconds * rate)) / rate)


def load(path, max_audio_s=30.0, **options):
    return load_waveform(AudioRef(str(path)), max_audio_s=max_audio_s, **options)


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, tone(1.0), SAMPLE_RATE, subtype="PCM_16")
    return path


def test_16_khz_mono_is_read_as_it_is(clip):
    waveform = load(clip)
    assert waveform.dtype == np.float32 and waveform.shape == (SAMPLE_RATE,)
    assert waveform.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(waveform, tone(1.0), atol=1e-4)


def test_stereo_96_khz_becomes_mono_16_khz(tmp_path):
    path = tmp_path / "stereo.wav"
    left_and_right = np.stack([2 * tone(1.0, 96_000), np.zeros(96_000)], axis=1)
    soundfile.write(path, left_and_right, 96_000, subtype="FLOAT")
    waveform = load(path)
    assert waveform.shape == (SAMPLE_RATE,)
    middle = slice(1000, -1000)
    np.testing.assert_allclose(waveform[middle], tone(1.0)[middle], atol=1e-3)


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_compressed_formats(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, tone(1.0), SAMPLE_RATE)
    assert abs(len(load(path)) - SAMPLE_RATE) < 2000


def test_missing_file(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: no such audio file; add it"):
        load(tmp_path / "gone.wav")


def test_folder_in_place_of_a_file(tmp_path):
    with pytest.raises(AudioError, match="is a folder, not an audio file"):
        load(tmp_path)


def test_empty_file(tmp_path):
    path = tmp_path / "empty.wav"
    path.touch()
    with pytest.raises(AudioError, match=r"empty\.wav: the file is empty \(0 bytes\)"):
        load(path)


def test_no_samples(tmp_path):
    path = tmp_path / "silent.wav"
    soundfile.write(path, np.zeros(0), SAMPLE_RATE)
    with pytest.raises(AudioError, match="holds 0 samples"):
        load(path)


def test_no_wav_at_all(tmp_path):
    path = tmp_path / "page.wav"
    path.write_text("<html>404 not found</html>")
    with pytest.raises(AudioError, match="corrupt, or of an unknown format"):
        load(path)


@pytest.mark.parametrize("max_audio_s", [30.0, 0.1])
@pytest.mark.parametrize("kept_bytes", [44, 1001, 16_000])
def test_truncated_wav(clip, kept_bytes, max_audio_s):
    clip.write_bytes(clip.read_bytes()[:kept_bytes])
    with pytest.raises(AudioError, match=r"truncated, its header promises \d+ bytes more"):
        load(clip, max_audio_s)


def test_wav_cut_inside_its_header(clip):
    clip.write_bytes(clip.read_bytes()[:20])
    with pytest.raises(AudioError, match="corrupt"):
        load(clip)


def test_wav_written_to_a_pipe_is_not_called_truncated(clip):
    data = bytearray(clip.read_bytes())
    start = data.index(b"data") + 4
    data[start : start + 4] = b"\xff\xff\xff\xff"
    clip.write_bytes(data)
    assert len(load(clip)) == SAMPLE_RATE


@pytest.mark.parametrize("suffix", ["flac", "ogg", "mp3"])
def test_truncated_compressed_file(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE), SAMPLE_RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=r"corrupt|truncated|0 samples"):
        load(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_samples(tmp_path, bad):
    samples = tone(1.0)
    samples[[5, 7]] = bad
    path = tmp_path / "bad.wav"
    soundfile.write(path, samples, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"2 of 16000 samples are NaN or infinite"):
        load(path)


def test_too_long_is_cropped_or_refused(clip):
    np.testing.assert_array_equal(load(clip, 0.25), load(clip)[:4000])
    with pytest.raises(AudioError, match=r"1\.00 s is longer than data\.max_audio_s=0\.25"):
        load(clip, 0.25, long_audio="skip")
    assert len(load(clip, 1.0, long_audio="skip")) == SAMPLE_RATE


def test_crop_of_another_rate_equals_the_head_of_the_whole(tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, tone(5.0, 44_100), 44_100)
    np.testing.assert_allclose(load(path, 1.0), load(path)[:SAMPLE_RATE], atol=1e-6)


def test_too_short_for_a_model(tmp_path):
    path = tmp_path / "click.wav"
    soundfile.write(path, tone(1.0)[: MIN_SAMPLES - 1], SAMPLE_RATE)
    with pytest.raises(AudioError, match="too short for an audio model"):
        load(path)
    soundfile.write(path, tone(1.0)[:MIN_SAMPLES], SAMPLE_RATE)
    assert len(load(path)) == MIN_SAMPLES


@pytest.mark.parametrize("module", ["av", "soundfile"])
def test_a_decoder_that_does_not_load_is_found_before_anything_starts(monkeypatch, module):
    check_decoders()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"the package {module}.* decodes clips.*run `pip install {module}`"):
        check_decoders()


def test_sound_of_a_video(tmp_path):
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44_100, layout="stereo")
        samples = tone(2.0, 44_100).astype(np.float32)
        for start in range(0, len(samples), 1024):
            block = samples[start : start + 1024]
            frame = av.AudioFrame.from_ndarray(np.stack([block, block]), format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = 44_100, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert abs(len(load(path)) / SAMPLE_RATE - 2.0) < 0.1
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match="truncated"):
        load(path)


def test_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(AudioError("a.wav: empty")))
    assert isinstance(error, ValueError) and str(error) == "a.wav: empty"
