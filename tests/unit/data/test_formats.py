"""The same sound in every format in which clips are distributed: as a file, out of a video, and as bytes in a row."""

import json

import numpy as np
import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.read import read_all
from ssr1_rl.types import SAMPLE_RATE
from tests.unit.data.distributed import COLUMNS, parquet, put, table
from tests.unit.data.media import media_bytes, sound_bytes

RATE, SECONDS, HZ = 48_000, 1.0, 440


def tone():
    return (0.5 * np.sin(2 * np.pi * HZ * np.arange(int(RATE * SECONDS)) / RATE)).astype(np.float32)


FORMATS = {
    "wav": lambda: sound_bytes("WAV", "PCM_16", tone(), RATE),
    "flac": lambda: sound_bytes("FLAC", "PCM_16", tone(), RATE),
    "mp3": lambda: sound_bytes("MP3", "MPEG_LAYER_III", tone(), RATE),
    "ogg": lambda: sound_bytes("OGG", "VORBIS", tone(), RATE),
    "opus": lambda: sound_bytes("OGG", "OPUS", tone(), RATE),
    "m4a": lambda: media_bytes("ipod", "aac", tone(), RATE),
    "mp4": lambda: media_bytes("mp4", "aac", tone(), RATE, video=True),
    "mkv": lambda: media_bytes("matroska", "flac", tone(), RATE, video=True),
    "avi": lambda: media_bytes("avi", "mp3", tone(), RATE, video=True),
}


def check_tone(ref):
    waveform = load_waveform(ref, max_audio_s=30.0)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(SECONDS * SAMPLE_RATE, abs=0.1 * SAMPLE_RATE)
    middle = waveform[SAMPLE_RATE // 4 : SAMPLE_RATE * 3 // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 2 == pytest.approx(HZ, abs=2), "bins of 2 Hz"
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_clip_in_any_format(tmp_path, suffix):
    content = FORMATS[suffix]()
    put(tmp_path, **{f"clip.{suffix}": content})
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"id": 1, "question": "?", "answer": "x", "audio": f"clip.{suffix}"})
    )
    (question,) = read_all(DatasetConfig(format="jsonl", path=str(tmp_path / "rows.jsonl"))).questions
    check_tone(question.audio[0])
    file = parquet(tmp_path / "rows.parquet", table([{"bytes": content, "path": None}]))
    config = DatasetConfig(format="parquet", path=str(file), columns=COLUMNS, clip_cache_dir=str(tmp_path / "kept"))
    (question,) = read_all(config).questions
    check_tone(question.audio[0])
