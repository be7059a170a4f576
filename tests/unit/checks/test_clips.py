"""Clips that the model cannot read, and decoders that are missing, are found before anything starts."""

import json
import sys

import numpy as np
import pytest
import soundfile

from ssr1_rl.checks.clips import check_clip_length
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.errors import ConfigError, UserError


def test_no_clip_is_longer_than_the_audio_tower_reads(random_audio_model, random_omni_model, random_text_model):
    for model in (random_audio_model, random_omni_model):
        check_clip_length(DataConfig(max_audio_s=30.0), str(model))
        with pytest.raises(ConfigError, match=r"data\.max_audio_s must be at most 30 with qwen2.*, got 30\.5"):
            check_clip_length(DataConfig(max_audio_s=30.5), str(model))
    check_clip_length(DataConfig(max_audio_s=60.0), str(random_text_model))


@pytest.mark.parametrize("seconds", [0.01, 0, -1, "nan", "inf", 1e9])
def test_a_longest_clip_that_makes_no_token_or_has_no_end_is_refused(tmp_path, seconds):
    with pytest.raises(ConfigError, match=r"data\.max_audio_s"):
        load_config("launch/local.yaml", [f"data.max_audio_s={seconds}"])


@pytest.fixture
def config(random_audio_model, tmp_path):
    """One question, whose clip has lost half of its file."""
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    (tmp_path / "a.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:16_000])
    (tmp_path / "q.jsonl").write_text(json.dumps({"id": "1", "question": "?", "answer": "a", "audio": "a.wav"}) + "\n")
    config = Config()
    config.run.name, config.run.dir, config.run.device = "x", str(tmp_path / "run"), "cpu"
    config.model.path = str(random_audio_model)
    config.data.train = DatasetConfig(format="jsonl", path=str(tmp_path / "q.jsonl"))
    config.data.truncated_audio = "use"
    return config


def test_the_preflight_decodes_a_clip_as_the_run_does(config):
    assert preflight(config).examples
    config.data.truncated_audio = "refuse"
    with pytest.raises(UserError, match=r"a\.wav: truncated.*data\.truncated_audio=use"):
        preflight(config)


def test_a_run_with_longer_clips_or_without_its_decoders_does_not_start(config, monkeypatch):
    config.data.max_audio_s = 31
    with pytest.raises(ConfigError, match=r"data\.max_audio_s must be at most 30"):
        preflight(config)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"the package av \(PyAV\), which decodes clips, does not load"):
        preflight(config)
