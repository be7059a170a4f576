"""An error that a user can fix is one sentence; a bug is a traceback, also if an actor raised it."""

from typing import get_args, get_type_hints

import pytest
from ray.exceptions import GetTimeoutError, RayTaskError
from typer.testing import CliRunner

from ssr1_rl import cli
from ssr1_rl.config.presets import PRESETS
from ssr1_rl.config.sections.grpo import GrpoConfig


def in_an_actor(error):
    """The error as Ray raises it in the caller."""
    return RayTaskError("f", "traceback", error, pid=1, ip="1").as_instanceof_cause()


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (ValueError("grpo.num_steps must be at least 1"), True),
        (RuntimeError("the engine did not start"), True),
        (KeyError("audio"), False),
        (AssertionError("never"), False),
        (TypeError("f() takes 1 argument"), False),
    ],
)
def test_a_bug_is_not_explained_wherever_it_happens(monkeypatch, capsys, error, explained, wrapped):
    def fail():
        raise in_an_actor(error) if wrapped else error

    monkeypatch.delenv("SSR1_RL_DEBUG", raising=False)
    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit if explained else type(error)) as caught:
        cli.main()
    if explained:
        assert caught.value.code == cli.EXIT_USER
        written = capsys.readouterr().err
        assert written.startswith(f"error: {error}\n")
        assert "SSR1_RL_DEBUG=1 shows the traceback" in written


def test_rays_own_errors_are_explained():
    assert cli._is_explained(GetTimeoutError("the learner did not answer"))


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
