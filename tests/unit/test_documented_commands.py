"""Every command that a text tells a user to type is parsed by its own program, and its launch file loads."""

from pathlib import Path

import pytest

from ssr1_rl.checks.preflight import preflight
from ssr1_rl.checks.rules import load_config
from ssr1_rl.errors import ConfigError, MissingFile, UserError
from tests.documented_commands import ROOT, Command, check, command_of, commands, commands_of

LAUNCH_FILES = sorted([*ROOT.glob("launch/*.yaml"), ROOT / "ssr1_rl/demo/demo.yaml"])
GRPO_FILES = [path for path in LAUNCH_FILES if command_of(path) == "grpo"]


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_documented_command_is_accepted_by_its_program(command: Command) -> None:
    check(command)


def test_the_commands_of_every_kind_of_text_are_found():
    places = {command.place.partition(":")[0] for command in commands()}
    assert {"README.md", "CONTRIBUTING.md", "settings.md", "benchmarks.md", "grpo.yaml", "local.yaml"} <= places
    assert {command.words[0] for command in commands()} >= {"ssr1-rl", "ray", "make", "python"}


@pytest.mark.parametrize(
    "line",
    [
        "AVQA=/data/avqa ray job submit launch/grpo.yaml",
        "ray job submit launch/gpro.yaml",
        "ray job submit --runtime-env-jsn '{}' -- launch/grpo.yaml",
        "ray job submit launch/local.yaml grpo.group_sise=4",
        "export RAY_ADDRESS=http://127.0.0.1:8265",
        "ssr1-rl grpo launch/local.yaml --dry-runs",
        "ssr1-rl grpo launch/local.yaml grpo.num_stps=20",
        "ssr1-rl exprot runs/local",
        "make demoo",
        "python benchmarks/end_to_ends.py",
        "pip install '.[gpus]'",
    ],
)
def test_a_false_command_is_noticed(line):
    [block] = commands_of(f"```sh\n{line}   # explained\n```", Path("x.md"))
    with pytest.raises((Exception, SystemExit)):
        check(block)
    [comment] = commands_of(f"#!/usr/bin/env\n# As a job:  {line}\n", Path("x.yaml"))
    assert comment.words == block.words


@pytest.mark.parametrize("path", GRPO_FILES, ids=lambda path: path.name)
def test_a_missing_file_of_a_shipped_launch_file_is_told_with_what_makes_it(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVQA", raising=False)
    monkeypatch.delenv("SSR1_RL_SOUNDWORLD", raising=False)
    config = load_config(path)
    with pytest.raises(MissingFile, match=r"is not a file|does not exist") as caught:
        preflight(config)
    assert config.run.setup
    assert str(caught.value).endswith(f"To get it: {config.run.setup}")
    if config.run.device == "cpu":
        assert config.run.setup == "ssr1-rl soundworld runs/soundworld"
        [command] = commands_of(f"`{config.run.setup}`", Path("x.md"))
        check(command)


def test_a_missing_model_is_told_with_what_makes_it_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFile, match=r"model\.path .*To get it: ssr1-rl soundworld runs/soundworld$"):
        preflight(load_config(ROOT / "launch/local.yaml"))


def test_missing_questions_are_told_with_what_makes_them_too(random_audio_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config(ROOT / "launch/local.yaml", [f"model.path={random_audio_model}"])
    with pytest.raises(
        MissingFile, match=r"train\.json is not a file .*To get it: ssr1-rl soundworld runs/soundworld$"
    ):
        preflight(config)


def test_without_a_setup_the_error_stands_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"Qwen/Qwen2-Audio-7B-Instruct$") as caught:
        preflight(load_config(ROOT / "launch/local.yaml", ["run.setup=''"]))
    assert isinstance(caught.value, UserError)
