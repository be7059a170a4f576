"""Each GRPO run that a text names passes its dry run, with the overrides and variables that stand there."""

import os
from pathlib import Path

import pytest

from ssr1_rl.checks.dry_run import print_dry_run
from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import config_to_yaml
from tests.documented_commands import ROOT, Command, check, command_of, commands


def runs() -> list[Config]:
    """The settings of every documented GRPO run, each once: only where a run keeps its files makes no other run."""
    found = {}
    for command in commands():
        if _is_grpo(command) and (config := check(command)):
            config.run.dir = "runs/x"
            if config.run.device == "cuda":
                _use_avqa(config, "data/avqa")
                config.model.path = "Qwen/Qwen2-Audio-7B-Instruct"
            found.setdefault(config_to_yaml(config), config)
    return list(found.values())


def _is_grpo(command: Command) -> bool:
    return any(command_of(ROOT / word) == "grpo" for word in command.words if (ROOT / word).suffix == ".yaml")


def _use_avqa(config: Config, folder: str) -> None:
    for name, dataset in {"train": config.data.train, "val": config.data.validation["avqa"]}.items():
        dataset.path, dataset.audio_dir = f"{folder}/{name}_qa.json", f"{folder}/audio"


def test_every_documented_run_passes_its_dry_run(
    soundworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The small world and its model stand for those of launch/local.yaml, and for AVQA and the model of 7B."""
    for name in ("train", "val"):
        os.symlink(soundworld / "world/test.json", tmp_path / f"{name}_qa.json")
    os.symlink(soundworld / "world/audio", tmp_path / "audio")
    monkeypatch.setenv("SSR1_RL_SOUNDWORLD", str(soundworld))
    found = runs()
    assert {config.run.device for config in found} == {"cpu", "cuda"}
    for config in found:
        config.run.dir = str(tmp_path / "run")
        if config.run.device == "cuda":
            _use_avqa(config, str(tmp_path))
            config.model.path = str(soundworld / "sft")
        print_dry_run(config)
