"""Checks of a reward function from the settings and its source text alone; no user code runs."""

import ast
import importlib.util
from collections.abc import Iterator

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.load import build_reward_fn, read_source
from ssr1_rl.rewards.source import RewardSource


def check_reward_source(config: RewardConfig, field: str) -> None:
    """Refuses a reward function whose file or package is missing or does not define it, and wrong built-in options.

    Raises:
        ConfigError: with the field, its value and the fix.
    """
    source = read_source(config, field)
    if not config.path:
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
