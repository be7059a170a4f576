"""Finds a reward function by name or path, and loads it in the actor that runs it.

The user's file is read where the run is started. Its source text is sent to the reward actors, and each actor runs it.
So the file need not exist on other nodes, nothing in it has to be picklable (a client or a lock at module level is
fine), and the controller need not import packages that only the actors' runtime_env has.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import linecache
import os
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.rewards.base import RewardFn, is_async
from ssr1_rl.rewards.binding import bound, check_target
from ssr1_rl.rewards.format import Format
from ssr1_rl.rewards.source import RewardSource, in_words, nearest_of

BUILT_IN: dict[str, type[RewardFn]] = {"accuracy": Accuracy, "format": Format}


def read_source(config: RewardConfig, field: str = "rewards[0]") -> RewardSource:
    """Reads the user's file, and makes the checks that do not run it.

    Raises:
        ConfigError: the built-in function or the file does not exist, or the path or the syntax is wrong.
    """
    if not config.path:
        check_built_in(config.name, field)
        return RewardSource(field, config)
    location, function = _split_path(config.path, field)
    if not location.endswith(".py"):
        return RewardSource(field, config)
    file = Path(location)
    if not file.is_file():
        raise ConfigError(
            f"{field}.path {config.path!r}: there is no file {location!r} in {Path.cwd()}; "
            f"give the path of the file that defines {function}"
        )
    code = file.read_bytes()
    try:
        compile(code, location, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{field}.path {config.path!r}: {location} is not valid Python: {error}") from error
    return RewardSource(field, config, code)


def check_reward(config: RewardConfig, field: str = "rewards[0]") -> RewardSource:
    """Reads the source, and makes every check that is possible before an actor starts.

    Runs the user's file or imports the module, unless a runtime_env is set: its packages may be missing here. Does not
    build an object of a user's class, because that may load a model.

    Raises:
        ConfigError: a name, path or option is wrong, or the user's code fails to load.
    """
    source = read_source(config, field)
    if not config.path:
        build_reward_fn(source)
    elif not config.runtime_env:
        with _undone():
            return replace(source, is_async=is_async(find_target(source)))
    elif source.code:
        return replace(source, is_async=_looks_async(source.code, config.path.rpartition(":")[2]))
    return source


@contextlib.contextmanager
def _undone() -> Iterator[None]:
    """Undoes what the user's file may change for the run: the working directory and the environment's variables."""
    folder, environment = Path.cwd(), dict(os.environ)
    try:
        yield
    finally:
        os.chdir(folder)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)


def _looks_async(code: bytes, function: str) -> bool:
    """Whether a file defines `function` as async, or as a class whose objects are."""
    for node in ast.parse(code).body:
        if isinstance(node, ast.AsyncFunctionDef) and node.name == function:
            return True
        if isinstance(node, ast.ClassDef) and node.name == function:
            return any(isinstance(part, ast.AsyncFunctionDef) and part.name == "__call__" for part in node.body)
    return False


def build_reward_fn(source: RewardSource) -> RewardFn:
    """Loads the reward function, with its options bound, as a function of (question, completions).

    Options are keyword arguments: of each call, or of the constructor if the settings name a class.

    Raises:
        ConfigError: a name, path or option is wrong, or the user's code fails to load.
    """
    return bound(find_target(source), source)


def check_built_in(name: str, field: str) -> None:
    """Raises `ConfigError` if `name` is not a reward function of this package."""
    known = f"built in are {', '.join(BUILT_IN)}; for a function of your own set {field}.path to 'file.py:function'"
    if not name:
        raise ConfigError(f"{field}.name and {field}.path are both empty: name a reward function ({known})")
    if name not in BUILT_IN:
        raise ConfigError(f"{field}.name {name!r} is not a built-in reward{nearest_of(name, BUILT_IN)} ({known})")


def _split_path(path: str, field: str) -> tuple[str, str]:
    location, _, function = path.rpartition(":")
    is_module = all(part.isidentifier() for part in location.split("."))
    if not function.isidentifier() or not (location.endswith(".py") or is_module):
        raise ConfigError(f"{field}.path must be 'file.py:function' or 'package.module:function', got {path!r}")
    return location, function


def find_target(source: RewardSource) -> RewardFn | type[RewardFn]:
    """Finds the callable or class that the settings name, and checks that it takes the options.

    Raises:
        ConfigError: a name, path or option is wrong, or the user's code fails to load.
    """
    target = find_function(source) if source.config.path else BUILT_IN[source.config.name]
    check_target(target, source)
    return target


def find_function(source: RewardSource) -> Any:
    """What `path` names, unchecked.

    Raises:
        ConfigError: the path is wrong, or the user's code fails to load.
    """
    field, path = source.field, source.config.path
    location, function = _split_path(path, field)
    try:
        module = _run_file(location, source.code) if location.endswith(".py") else importlib.import_module(location)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigError(
            f"{field}.path {path!r}: loading {location} raised {in_words(error)}; "
            f"install every module that it needs on every node, or name it in {field}.runtime_env"
        ) from error
    if not hasattr(module, function):
        callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"{field}.path {path!r}: {location} has no {function!r}{nearest_of(function, callables)}")
    return getattr(module, function)


def _run_file(location: str, code: bytes) -> types.ModuleType:
    """Makes a module from the source text of the user's file, because this node may not have the file."""
    text = code.decode("utf-8", errors="replace")
    linecache.cache[location] = (len(text), None, text.splitlines(keepends=True), location)  # for tracebacks
    return _module_of(location, code)


@functools.cache
def _module_of(location: str, code: bytes) -> types.ModuleType:
    """Runs the text, once in a process, however many reward functions it defines."""
    module = types.ModuleType(f"ssr1_rl_reward_file_{Path(location).stem}")
    module.__file__ = location
    sys.modules[module.__name__] = module  # dataclasses look up their module here
    exec(compile(code, location, "exec", dont_inherit=True), vars(module))
    return module
