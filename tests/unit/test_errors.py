"""Every error that is written for the user survives the way out of an actor, and none is a bare standard error."""

import ast
import importlib
import inspect
import pickle
import pkgutil
from pathlib import Path

import pytest
from ray.exceptions import RayTaskError
from typer.testing import CliRunner

import ssr1_rl
from ssr1_rl import cli
from ssr1_rl.errors import ConfigError, Explained, UserError, named_by_the_user, original

PACKAGE = Path(ssr1_rl.__file__).parent


def explained() -> list[type[Explained]]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "ssr1_rl."):
        importlib.import_module(module.name)
    found, todo = [], [Explained]
    while todo:
        found.append(todo.pop())
        todo += found[-1].__subclasses__()
    return sorted((c for c in found if c.__module__.startswith("ssr1_rl.")), key=lambda c: c.__qualname__)


@pytest.mark.parametrize("kind", explained(), ids=lambda kind: kind.__name__)
def test_an_explained_error_survives_pickling_and_an_actor(kind):
    arguments = [f"argument {name}" for name in list(inspect.signature(kind.__init__).parameters)[1:]]
    error = kind(*arguments) if "args" not in inspect.signature(kind.__init__).parameters else kind("what to do")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
    wrapped = RayTaskError("f", "traceback", error, pid=1, ip="1")
    received = pickle.loads(pickle.dumps(wrapped)).as_instanceof_cause()
    assert isinstance(received, Explained)
    assert str(original(received)) == str(error)


INTERNAL = {
    # (file, error): caught where it is raised, or cannot happen.
    ("rewards/accuracy.py", "ValueError"),  # of a reward function: counted, or turned into a ConfigError
    ("rewards/format.py", "ValueError"),
    ("rewards/choice.py", "ValueError"),
    ("rewards/actor.py", "RuntimeError"),
    ("data/audio.py", "ValueError"),  # becomes an AudioError around it
    ("algorithm/advantage.py", "ValueError"),  # the settings are checked before
}
STANDARD = {"ValueError", "RuntimeError", "OSError", "FileNotFoundError", "TimeoutError", "Exception", "TypeError"}


def test_no_bare_standard_error_is_raised_for_a_user():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                found.add((path.relative_to(PACKAGE).as_posix(), node.exc.func.id))
    assert {(file, name) for file, name in found if name in STANDARD} <= INTERNAL


def test_errors_come_out_of_ray_s_wrapping_however_deep():
    error = ConfigError("x")
    once = RayTaskError("f", "t", error, pid=1, ip="1").as_instanceof_cause()
    twice = RayTaskError("g", "t", once, pid=1, ip="1").as_instanceof_cause()
    assert original(twice) is error
    assert original(error) is error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["soundworld", "FILE"], "OUTPUT"),
        (["soundworld", "FILE/below"], "OUTPUT"),
        (["demo", "--output", "FILE/below"], "--output"),
        (["grpo", "launch/local.yaml", "run.dir=FILE/below"], "run.dir"),
        (["grpo", "launch/local.yaml", "run.dir=FILE"], "run.dir"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_by_its_option(tmp_path, monkeypatch, command, option):
    (tmp_path / "file").write_text("")
    arguments = [part.replace("FILE", str(tmp_path / "file")) for part in command]
    monkeypatch.setattr("ssr1_rl.run.preflight", lambda config: None)
    monkeypatch.setattr("ssr1_rl.run.check_reward", lambda config, field: None)
    result = CliRunner().invoke(cli.app, arguments)
    assert isinstance(result.exception, UserError), result.exception
    assert f"{option} {tmp_path / 'file'}" in str(result.exception)


def test_an_error_about_a_file_that_the_user_did_not_name_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), named_by_the_user("--output", tmp_path / "x"):
        Path("/no/such/file").read_text()
    with pytest.raises(OSError, match="broken") as caught, named_by_the_user("--output", tmp_path / "x"):
        raise OSError("broken")
    assert not isinstance(caught.value, Explained)
