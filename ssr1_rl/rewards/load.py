"""Finds a reward function by name or path, and loads it in the actor that runs it.

The user's file is read where the run is started. Its source text is sent to the reward actors, and each actor runs it.
So the file need not exist on other nodes, nothing in it has to be picklable (a client or a lock at module level is
fine), and the controller need not import packages that only the actors' runtime_env has.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import linecache
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssr1_rl.config.environment import plain, without_values
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.rewards.base import RewardFn
from ssr1_rl.rewards.format import Format

BUILT_IN: dict[str, type[RewardFn]] = {"accuracy": Accuracy, "format": Format}


@dataclass(frozen=True)
class RewardSource:
    """What an actor on any node needs to load one reward function."""

    field: str  # where its section is in the settings, such as "rewards[0]"
    config: RewardConfig
    code: bytes = b""  # content of the user's file; empty for a built-in function or an importable module


def reward_name(config: RewardConfig) -> str:
    """The name in metrics and errors: `name`, or the name of the function in `path` if `name` is not set."""
    return config.name or config.path.rpartition(":")[2]


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
        _find_target(source)
    return source


def build_reward_fn(source: RewardSource) -> RewardFn:
    """Loads the reward function, with its options bound.

    Options are keyword arguments: of each call, or of the constructor if the settings name a class.

    Raises:
        ConfigError: a name, path or option is wrong, or the user's code fails to load.
    """
    target = _find_target(source)
    options = plain(source.config.options)
    if not isinstance(target, type):
        return functools.partial(target, **options) if options else target
    name = _described(source)
    try:
        reward_fn = target(**options)
    except Exception as error:  # the user's own constructor may raise anything
        cause = without_values(_in_words(error), source.config.options)
        raise ConfigError(f"{source.field}.options {source.config.options!r} do not build {name}: {cause}") from error
    _check_callable(reward_fn, f"an instance of {name}")
    _check_arguments(reward_fn, (None, None), {}, source)
    return reward_fn


def check_built_in(name: str, field: str) -> None:
    """Raises `ConfigError` if `name` is not a reward function of this package."""
    known = f"built in are {', '.join(BUILT_IN)}; for a function of your own set {field}.path to 'file.py:function'"
    if not name:
        raise ConfigError(f"{field}.name and {field}.path are both empty: name a reward function ({known})")
    if name not in BUILT_IN:
        raise ConfigError(f"{field}.name {name!r} is not a built-in reward{_nearest(name, BUILT_IN)} ({known})")


def _split_path(path: str, field: str) -> tuple[str, str]:
    location, _, function = path.rpartition(":")
    is_module = all(part.isidentifier() for part in location.split("."))
    if not function.isidentifier() or not (location.endswith(".py") or is_module):
        raise ConfigError(f"{field}.path must be 'file.py:function' or 'package.module:function', got {path!r}")
    return location, function


def _find_target(source: RewardSource) -> RewardFn | type[RewardFn]:
    """Finds the callable or class that the settings name, and checks that it takes the options."""
    config = source.config
    target = _find_function(source) if config.path else BUILT_IN[config.name]
    arguments = () if isinstance(target, type) else (None, None)
    _check_arguments(target, arguments, config.options, source)
    return target


def _find_function(source: RewardSource) -> Any:
    field, path = source.field, source.config.path
    location, function = _split_path(path, field)
    try:
        module = _run_file(location, source.code) if location.endswith(".py") else importlib.import_module(location)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigError(
            f"{field}.path {path!r}: loading {location} raised {_in_words(error)}; "
            f"install every module that it needs on every node, or name it in {field}.runtime_env"
        ) from error
    if not hasattr(module, function):
        callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"{field}.path {path!r}: {location} has no {function!r}{_nearest(function, callables)}")
    target = getattr(module, function)
    _check_callable(target, f"{field}.path {path!r}")
    return target


def _run_file(location: str, code: bytes) -> types.ModuleType:
    """Makes a module from the source text of the user's file, because this node may not have the file."""
    module = types.ModuleType(f"ssr1_rl_reward_file_{Path(location).stem}")
    module.__file__ = location
    text = code.decode("utf-8", errors="replace")
    linecache.cache[location] = (len(text), None, text.splitlines(keepends=True), location)  # for tracebacks
    sys.modules[module.__name__] = module  # dataclasses look up their module here
    exec(compile(code, location, "exec", dont_inherit=True), vars(module))
    return module


def _check_callable(target: object, name: str) -> None:
    if not callable(target):
        raise ConfigError(
            f"{name} is a {type(target).__name__}, which cannot be called; "
            "it has to be a function or an object with __call__(question, completions)"
        )


def _check_arguments(
    target: Callable[..., object], arguments: tuple[object, ...], options: Mapping[str, object], source: RewardSource
) -> None:
    """Raises `ConfigError` if `target` cannot be called with these positional arguments and the options."""
    try:
        signature = inspect.signature(target)
    except ValueError:  # functions written in C may have none
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        parameters = list(signature.parameters.values())[len(arguments) :]
        taken = [parameter.name for parameter in parameters if parameter.kind != parameter.POSITIONAL_ONLY]
        unknown = next((option for option in options if option not in taken), "")
        if unknown:
            raise ConfigError(
                f"{source.field}.options has no {unknown!r}{_nearest(unknown, taken)}; "
                f"{_described(source)} takes {', '.join(taken) or 'no options'}"
            ) from error
        called = "(question, completions, **options)" if arguments else "(**options)"
        raise ConfigError(
            f"{_described(source)} cannot be called as {called} with {source.field}.options {dict(options)!r}: "
            f"{error}; its signature is {signature}"
        ) from error


def _described(source: RewardSource) -> str:
    config = source.config
    return f"{source.field}.path {config.path!r}" if config.path else f"{source.field}.name {config.name!r}"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known, cutoff=0.5)
    return f"; did you mean {near!r}?" if near else ""


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
