"""What an actor on any node needs to load one reward function."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.values import nearest


@dataclass(frozen=True)
class RewardSource:
    """A section of the settings, and the text of the file that it names."""

    field: str  # where its section is in the settings, such as "rewards[0]"
    config: RewardConfig
    code: bytes = b""  # content of the user's file; empty for a built-in function or an importable module
    is_async: bool = False  # as far as the controller knows; the actor that loads the function knows better


def reward_name(config: RewardConfig) -> str:
    """The name in metrics and errors: `name`, or the name of the function in `path` if `name` is not set."""
    return config.name or config.path.rpartition(":")[2]


def described(source: RewardSource) -> str:
    """How errors name the function."""
    config = source.config
    return f"{source.field}.path {config.path!r}" if config.path else f"{source.field}.name {config.name!r}"


def nearest_of(name: str, known: Iterable[str]) -> str:
    """A question for the end of an error: which known name was meant."""
    near = nearest(name, known, cutoff=0.5)
    return f"; did you mean {near!r}?" if near else ""


def in_words(error: BaseException) -> str:
    """The error's class and message."""
    return f"{type(error).__name__}: {error}"
