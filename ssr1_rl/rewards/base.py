"""What a reward function is, how one is found by name or path, and what it may return.

A user's file is read where the run is started and travels to the reward actors as
source text, which each actor runs for itself. It need not lie at the same path (or at
all) on other nodes, nothing of it has to be picklable (a client or a lock at module
level is fine), and a file whose imports exist only in its own runtime_env never has to
be imported by the controller. Sending the loaded function by cloudpickle would fail in
the last two cases.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import linecache
import math
import numbers
import reprlib
import sys
import types
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssr1_rl.config.schema import ConfigError, RewardConfig
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.rewards.format import Format
from ssr1_rl.types import Completion, Question

BUILT_IN: dict[str, Callable[..., RewardFn]] = {"accuracy": Accuracy, "format": Format}


class RewardFn(Protocol):
    """Scores the completions of one question: one finite number each, in their order.

    A plain function or an object, sync or async. A sync one runs in a thread of its
    actor, one group at a time; an async one may have many groups under way in one actor.
    """

    def __call__(
        self, question: Question, completions: Sequence[Completion], /
    ) -> Sequence[float] | Awaitable[Sequence[float]]:
        """The rewards of `completions`."""
        ...


class InvalidRewards(ValueError):
    """A reward function returned something other than one finite number per completion."""


@dataclass(frozen=True)
class RewardSource:
    """Everything an actor needs to build one reward function, on whichever node it runs.

    Attributes:
        field: where it stands in the settings, such as "rewards[0]".
        config: its section.
        code: the bytes of the user's file; empty for a built-in or an importable module.
    """

    field: str
    config: RewardConfig
    code: bytes = b""


def load_reward_fn(config: RewardConfig, field: str = "rewards[0]") -> RewardFn:
    """The reward function that `config` names, its options bound; `field` says where `config` stands.

    Without a path it is a built-in. With one, it is a function or callable object of
    the user's (options are bound to it as keyword arguments), or a class (built with
    the options as keyword arguments).

    Raises:
        ConfigError: a name, path or option is wrong, or the user's code fails to load.
    """
    return build_reward_fn(read_source(config, field))


def reward_name(config: RewardConfig) -> str:
    """The name that metrics and errors use: `name`, or the function's own name if only `path` is set."""
    return config.name or config.path.rpartition(":")[2]


def read_source(config: RewardConfig, field: str = "rewards[0]") -> RewardSource:
    """Checks what can be checked without running the user's code, and reads the user's file.

    Raises:
        ConfigError: no such built-in or file, a path of another form, or a syntax error.
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
    """`read_source`, and every mistake that can be found before an actor starts.

    Runs the user's file or imports the module, unless it has a runtime_env (what it
    imports may exist only there), but does not build a class of the user's: that may load a model.

    Raises:
        ConfigError: as `load_reward_fn`.
    """
    source = read_source(config, field)
    if not config.path:
        build_reward_fn(source)
    elif not config.runtime_env:
        _find_target(source)
    return source


def build_reward_fn(source: RewardSource) -> RewardFn:
    """Runs or imports the user's code and binds the options. Raises `ConfigError` as `load_reward_fn` does."""
    target = _find_target(source)
    name, options = _described(source), dict(source.config.options)
    if not isinstance(target, type):
        return functools.partial(target, **options) if options else target
    try:
        reward_fn = target(**options)
    except Exception as error:  # the user's own constructor may raise anything
        raise ConfigError(f"{source.field}.options {options!r} do not build {name}: {_in_words(error)}") from error
    _check_callable(reward_fn, f"an instance of {name}")
    _check_arguments(reward_fn, (None, None), {}, source)
    return reward_fn


def is_async(reward_fn: RewardFn) -> bool:
    """Whether calling it gives an awaitable at once, without blocking."""
    return inspect.iscoroutinefunction(reward_fn) or inspect.iscoroutinefunction(type(reward_fn).__call__)


def check_rewards(values: Any, num_completions: int) -> tuple[float, ...]:
    """The rewards as floats, if they are one finite number per completion.

    Numbers are Python's and numpy's, booleans, and zero-dimensional arrays and tensors.

    Raises:
        InvalidRewards: anything else.
    """
    is_sequence = hasattr(values, "__len__") and hasattr(values, "__iter__") and getattr(values, "ndim", 1) > 0
    if not is_sequence or isinstance(values, (str, bytes, Mapping, set, frozenset)):
        raise InvalidRewards(
            f"a reward function has to return a list of {num_completions} floats, got {reprlib.repr(values)}"
        )
    rewards = tuple(values)
    if len(rewards) != num_completions:
        raise InvalidRewards(f"{len(rewards)} rewards for {num_completions} completions; return one float for each")
    return tuple(_as_float(value, index, num_completions) for index, value in enumerate(rewards))


def _as_float(value: Any, index: int, num_completions: int) -> float:
    which = f"reward {index + 1} of {num_completions} is {reprlib.repr(value)}"
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        raise InvalidRewards(f"{which}, which is not a number; return one float for each completion")
    try:
        reward = float(value)
    except OverflowError:
        reward = math.inf
    if not math.isfinite(reward):
        raise InvalidRewards(f"{which}; return a finite float for each completion")
    return reward


def check_built_in(name: str, field: str) -> None:
    """Raises `ConfigError` unless `name` is a reward function that ships with the package."""
    known = f"built in are {', '.join(BUILT_IN)}; for a function of your own set {field}.path to 'file.py:function'"
    if not name:
        raise ConfigError(f"{field}.name and {field}.path are both empty: name a reward function ({known})")
    if name not in BUILT_IN:
        raise ConfigError(f"{field}.name {name!r} is no built-in reward function{_nearest(name, BUILT_IN)} ({known})")


def _split_path(path: str, field: str) -> tuple[str, str]:
    location, _, function = path.rpartition(":")
    is_module = all(part.isidentifier() for part in location.split("."))
    if not function.isidentifier() or not (location.endswith(".py") or is_module):
        raise ConfigError(f"{field}.path must be 'file.py:function' or 'package.module:function', got {path!r}")
    return location, function


def _find_target(source: RewardSource) -> Any:
    """The function, callable object or class that the settings name, if it takes the options."""
    config = source.config
    target = _find_function(source) if config.path else BUILT_IN[config.name]
    arguments = () if isinstance(target, type) else (None, None)
    _check_arguments(target, arguments, dict(config.options), source)
    return target


def _find_function(source: RewardSource) -> Any:
    field, path = source.field, source.config.path
    location, function = _split_path(path, field)
    try:
        module = _run_file(location, source.code) if location.endswith(".py") else importlib.import_module(location)
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise ConfigError(
            f"{field}.path {path!r}: loading {location} raised {_in_words(error)}; "
            f"modules it needs have to be installed on every node or come by {field}.runtime_env"
        ) from error
    if not hasattr(module, function):
        callables = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"{field}.path {path!r}: {location} has no {function!r}{_nearest(function, callables)}")
    target = getattr(module, function)
    _check_callable(target, f"{field}.path {path!r}")
    return target


def _run_file(location: str, code: bytes) -> types.ModuleType:
    """The user's file as a module, from its source text: the file itself may lie on another node."""
    module = types.ModuleType(f"ssr1_rl_reward_file_{Path(location).stem}")
    module.__file__ = location
    text = code.decode("utf-8", errors="replace")
    linecache.cache[location] = (len(text), None, text.splitlines(keepends=True), location)  # for tracebacks
    sys.modules[module.__name__] = module  # dataclasses look their module up here
    exec(compile(code, location, "exec", dont_inherit=True), vars(module))
    return module


def _check_callable(target: Any, name: str) -> None:
    if not callable(target):
        raise ConfigError(
            f"{name} is a {type(target).__name__} that cannot be called; "
            "it has to be a function or an object with __call__(question, completions)"
        )


def _check_arguments(
    target: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], source: RewardSource
) -> None:
    """Refuses options that `target` does not take, and a function that does not take (question, completions)."""
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
            f"{_described(source)} cannot be called as {called} with {source.field}.options {options!r}: {error}; "
            f"its signature is {signature}"
        ) from error


def _described(source: RewardSource) -> str:
    config = source.config
    return f"{source.field}.path {config.path!r}" if config.path else f"{source.field}.name {config.name!r}"


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
