"""An error that was written for the user is one sentence; any other says so, and its traceback is kept in a file."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from ray.exceptions import GetTimeoutError, RayTaskError
from typer.testing import CliRunner

from ssr1_rl import cli
from ssr1_rl.actors.waits import WaitedTooLong
from ssr1_rl.cluster import ClusterTooSmall
from ssr1_rl.config.presets import PRESETS
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.errors import IN_THE_LOG, ConfigError
from ssr1_rl.rollout.worker import EngineStartError
from ssr1_rl.store.checkpoints import DamagedCheckpoint


def in_an_actor(error):
    """The error as Ray raises it in the caller."""
    return RayTaskError("f", "traceback", error, pid=1, ip="1").as_instanceof_cause()


EXPLAINED = [
    (ConfigError("grpo.num_steps must be at least 1"), cli.EXIT_USER),
    (DamagedCheckpoint("step_000040 is damaged"), cli.EXIT_USER),
    (EngineStartError("the engine did not start"), cli.EXIT_RUN),
    (ClusterTooSmall("no GPU at all"), cli.EXIT_RUN),
    (WaitedTooLong("the learner did not answer"), cli.EXIT_RUN),
]
UNEXPECTED = [
    (ValueError("shapes do not match"), "ValueError"),
    (RuntimeError("CUDA error: an illegal memory access"), "RuntimeError"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "torch.OutOfMemoryError"),
    (OSError(28, "No space left on device", "/x"), "OSError"),
    (KeyError("audio"), "KeyError"),
    (GetTimeoutError("Ray took too long"), "ray.exceptions.GetTimeoutError"),
    (AssertionError(), "AssertionError"),
]


def told(monkeypatch, capsys, error):
    """The exit code and what is printed for an error of the command."""

    def fail():
        raise error

    monkeypatch.delenv("SSR1_RL_DEBUG", raising=False)
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("error", "code"), EXPLAINED)
def test_an_explained_error_is_a_sentence_wherever_it_happens(monkeypatch, capsys, error, code, wrapped):
    returned, written = told(monkeypatch, capsys, in_an_actor(error) if wrapped else error)
    assert returned == code
    assert written.startswith(f"error: {error}\n")
    assert "SSR1_RL_DEBUG=1 shows the traceback" in written


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(("error", "kind"), UNEXPECTED)
def test_any_other_error_says_that_it_is_a_bug_or_a_failure_outside(monkeypatch, capsys, error, kind, wrapped):
    returned, written = told(monkeypatch, capsys, in_an_actor(error) if wrapped else error)
    assert returned == cli.EXIT_UNEXPECTED
    first = written.splitlines()[0]
    assert first.startswith(f"error: unexpected {kind}, a bug of ssr1_rl or a failure outside it: ")
    assert str(error) in first or first.endswith("no message")
    [kept] = re.findall(r"the traceback is in (\S+)\)", written)
    text = Path(kept).read_text()
    Path(kept).unlink()
    assert kind.rpartition(".")[2] in text
    assert "Traceback" in text


def test_an_error_of_a_run_names_its_error_log_and_no_other_file(monkeypatch, capsys):
    error = KeyError("audio")
    error.add_note("raised in learner rank 1 (pid 7 on node 10.0.0.1): updating the policy")
    error.add_note(f"{IN_THE_LOG}runs/x/error.log")
    _, written = told(monkeypatch, capsys, error)
    assert "(raised in learner rank 1 (pid 7 on node 10.0.0.1): updating the policy)\n" in written
    assert "runs/x/error.log)\n" in written
    assert "the traceback is in" not in written


def test_a_message_of_many_lines_stays_one_line(monkeypatch, capsys):
    _, written = told(monkeypatch, capsys, RuntimeError("a\n" * 5000))
    Path(re.findall(r"the traceback is in (\S+)\)", written)[0]).unlink()
    assert len(written.splitlines()[0]) < 1200
    assert written.splitlines()[1].startswith("(")


def test_debug_shows_the_traceback_itself(monkeypatch):
    def fail():
        raise ConfigError("x")

    monkeypatch.setenv("SSR1_RL_DEBUG", "1")
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(ConfigError):
        cli.main()


def test_help_says_where_settings_are_explained(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    written = CliRunner().invoke(cli.app, ["grpo", "--help"]).output
    assert "docs/settings.md" in written
    assert all(name in written for name in PRESETS)
    assert get_args(get_type_hints(GrpoConfig)["preset"]) == ("", *PRESETS)
    assert "SSR1_RL_DEBUG" in CliRunner().invoke(cli.app, ["--help"]).output


@pytest.mark.parametrize(
    ("argument", "fix"),
    [("--grpo.num_steps=3", "an override has none: grpo.num_steps=3"), ("--dryrun", "--help lists the options")],
)
def test_an_override_with_dashes_is_refused_with_the_right_one(argument, fix):
    result = CliRunner().invoke(cli.app, ["grpo", "launch/local.yaml", argument])
    assert fix in str(result.exception)
