"""Each launch file that a text names passes its dry run, with the overrides and variables that stand there."""

import os
from pathlib import Path

import pytest

from ssr1_rl.checks.dry_run import print_dry_run
from tests.documented_commands import Command, check, commands


@pytest.fixture
def data(soundworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small world and its model, for launch/local.yaml and, as if it were AVQA, for launch/grpo.yaml."""
    for name in ("train_qa.json", "val_qa.json"):
        os.symlink(soundworld / "world/test.json", tmp_path / name)
    os.symlink(soundworld / "world/audio", tmp_path / "audio")
    monkeypatch.setenv("SSR1_RL_SOUNDWORLD", str(soundworld))
    monkeypatch.setenv("MODEL", str(soundworld / "sft"))


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_documented_run_passes_its_dry_run(command: Command, data: None, tmp_path: Path) -> None:
    config = check(command)
    if config is None:
        pytest.skip("it runs no launch file")
    for dataset in (config.data.train, *config.data.validation.values()):
        if dataset.path.startswith("/data/avqa"):
            dataset.path = dataset.path.replace("/data/avqa", str(tmp_path))
            dataset.audio_dir = dataset.audio_dir.replace("/data/avqa", str(tmp_path))
    print_dry_run(config)
