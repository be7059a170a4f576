"""Checks and notes of a reward function from the settings and its source text alone; no user code runs."""

import ast
import contextlib
import importlib.util
from collections.abc import Iterator, Sequence

from ssr1_rl.checks.runtime_env import check_runtime_env
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.interfaces import INTERFACES_IN_WORDS, openrlhf_refused, reads_messages, recognised
from ssr1_rl.rewards.load import build_reward_fn, read_source
from ssr1_rl.rewards.runtime_env import runtime_env_in_words
from ssr1_rl.rewards.source import RewardSource


def check_reward_source(config: RewardConfig, field: str) -> None:
    """Refuses a reward function whose file or package is missing or does not define it, and settings that cannot work.

    Raises:
        ConfigError: with the field, its value and the fix.
    """
    check_runtime_env(config, field)
    source = read_source(config, field)
    if not config.path:
        if config.interface not in ("auto", "ssr1"):
            raise ConfigError(
                f"{field}.interface={config.interface} is for functions of your own, and {field}.name {config.name!r} "
                f"is built in: leave it out, or set {field}.path"
            )
        build_reward_fn(source)
        return
    location, _, function = config.path.rpartition(":")
    if location.endswith(".py"):
        _file_defines(function, location, source)
    elif not config.runtime_env and not importlib.util.find_spec(location.partition(".")[0]):
        raise ConfigError(
            f"{field}.path {config.path!r}: there is no package {location.partition('.')[0]!r} here; "
            f"install it, or add it to {field}.runtime_env"
        )


def _file_defines(function: str, location: str, source: RewardSource) -> None:
    parameters = _declared_parameters(source)
    if source.config.interface == "auto" and recognised(parameters) == "openrlhf":
        raise ConfigError(openrlhf_refused(source.field, source.config.path, parameters))
    names = dict(_bound_names(ast.parse(source.code)))
    if "*" in names:
        return
    if function not in names:
        near = nearest(function, [name for name, callable_ in names.items() if callable_])
        raise ConfigError(
            f"{source.field}.path {source.config.path!r}: {location} has no {function!r}"
            + (f"; did you mean {near!r}?" if near else "")
        )
    if not names[function]:
        raise ConfigError(
            f"{source.field}.path {source.config.path!r}: {function} is a constant there; name a function or a class"
        )


def reward_notes(rewards: Sequence[RewardConfig]) -> list[str]:
    """How a function written for another trainer is called, and what Ray sets up before the actors start."""
    found = []
    for index, config in enumerate(rewards):
        field = f"rewards[{index}]"
        if config.path.rpartition(":")[0].endswith(".py") and config.interface == "auto":
            with contextlib.suppress(ConfigError):  # the check of the file reports it
                source = read_source(config, field)
                interface = recognised(_declared_parameters(source))
                if interface == "trl" and reads_messages(source.code, config.path.rpartition(":")[2]):
                    interface = "trl_messages"
                if interface in INTERFACES_IN_WORDS:
                    found.append(
                        f"{field}.path {config.path} is called {INTERFACES_IN_WORDS[interface]}, "
                        f"as its parameters say; {field}.interface sets another way"
                    )
        if config.runtime_env:
            found.append(f"{field}: {runtime_env_in_words(config)}, before its actors start")
    return found


def _declared_parameters(source: RewardSource) -> list[str]:
    """The parameters of a call of the function, or of the class's objects; empty if the file does not define it."""
    function = source.config.path.rpartition(":")[2]
    for node in ast.parse(source.code).body:
        if isinstance(node, ast.ClassDef) and node.name == function:
            calls = [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
            return next((_names(call)[1:] for call in calls if call.name == "__call__"), [])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            return _names(node)
    return []


def _names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _bound_names(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """Names that a module binds, at its top level or under an `if` or `try`, and whether each can be a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield child.name, True
        elif isinstance(child, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name.partition(".")[0], True) for alias in child.names)
        elif isinstance(child, ast.Assign):
            targets = [part.id for target in child.targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from ((name, not isinstance(child.value, ast.Constant)) for name in targets)
        elif isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name):
            yield child.target.id, not isinstance(child.value, ast.Constant)
        elif not isinstance(child, ast.expr):
            yield from _bound_names(child)
