"""Hundreds of broken files of every format: the only error that comes out is an `AudioError` that names the file."""

import random

import numpy as np
import pytest

from ssr1_rl.data.audio import MAX_LEVEL, AudioError, load_waveform
from ssr1_rl.types import SAMPLE_RATE, AudioRef
from tests.unit.data.media import media_bytes, noise, sound_bytes

SEEDS = {
    **{name: sound_bytes(*name.split("-"), noise(0.3)) for name in (
        "WAV-PCM_16", "WAV-FLOAT", "WAV-IMA_ADPCM", "RF64-PCM_16", "W64-PCM_16", "AIFF-PCM_16", "AU-PCM_16",
        "CAF-ALAC_16", "FLAC-PCM_16", "OGG-VORBIS", "OGG-OPUS", "MP3-MPEG_LAYER_III", "NIST-PCM_16", "VOC-PCM_16",
        "SVX-PCM_16", "MAT5-PCM_16", "XI-DPCM_16", "SDS-PCM_16",
    )},
    **{name: media_bytes(*name.split("-"), noise(0.3)) for name in (
        "mp4-aac", "mov-pcm_s16le", "3gp-aac", "adts-aac", "matroska-flac", "matroska-aac", "avi-pcm_s16le",
        "mpegts-aac", "ogg-flac", "wav-adpcm_ms", "tta-tta", "wv-wavpack", "nut-aac",
    )},
}  # fmt: skip


def broken(data, chance):
    """The file with some bytes changed, most of them in its header, or a part lost, doubled or moved."""
    data = bytearray(data)
    for _ in range(chance.choice((1, 2, 5, 20))):
        reach = chance.choice((32, 128, len(data)))
        at = chance.randrange(min(reach, len(data)))
        data[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    kind = chance.randrange(6)
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    if kind == 0:
        del data[start:end]
    elif kind == 1:
        data[start:start] = data[start:end]
    elif kind == 2:
        del data[start:]
    elif kind == 3:
        data[start:end] = bytes(end - start)
    return bytes(data)


@pytest.mark.parametrize("name", SEEDS)
def test_a_broken_file_is_read_or_refused_by_name(tmp_path, name, capfd):
    chance = random.Random(name)
    path = tmp_path / "clip.bin"
    for number in range(20):
        path.write_bytes(broken(SEEDS[name], chance))
        try:
            truncated = "use" if number % 2 else "refuse"
            waveform = load_waveform(AudioRef(str(path)), max_audio_s=2.0, truncated_audio=truncated)
        except AudioError as error:
            assert str(error).startswith(f"{path}: "), error
        else:
            assert 0 < len(waveform) <= 2 * SAMPLE_RATE
            assert np.isfinite(waveform).all() and np.abs(waveform).max() <= MAX_LEVEL
    assert "Traceback" not in capfd.readouterr().err
