"""The contract of a reward function: how it is called, and what it may return."""

from __future__ import annotations

import inspect
import math
import numbers
import reprlib
from collections.abc import Awaitable, Iterable, Mapping, Sequence, Sized
from typing import Protocol, TypeAlias

from ssr1_rl.types import Completion, Question

Rewards: TypeAlias = tuple[float | None, ...]
"""One reward for each completion of a group; None where the function does not apply."""


class RewardFn(Protocol):
    """Scores the completions of one question, in their order: one finite number for each, or None: "does not apply".

    It may be a plain or an async callable. A plain one runs on the main thread of its actor, one
    group at a time; an async one may score many groups in its actor at once.
    """

    def __call__(
        self, question: Question, completions: Sequence[Completion], /
    ) -> Sequence[float | None] | Awaitable[Sequence[float | None]]: ...


class InvalidRewards(ValueError):
    """A reward function returned something other than one finite number, or None, per completion."""


def is_async(target: RewardFn | type[RewardFn]) -> bool:
    """Whether a call of `target`, or of an object of it if it is a class, returns an awaitable without blocking."""
    call = target.__call__ if isinstance(target, type) else type(target).__call__
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call)


def check_rewards(values: object, num_completions: int) -> Rewards:
    """Converts what a reward function returned to floats; None, which means "does not apply", stays.

    Accepts numbers of Python and numpy, booleans, and zero-dimensional arrays and tensors.

    Raises:
        InvalidRewards: the values are not one finite number, or None, per completion.
    """
    if (
        not isinstance(values, Sized)
        or not isinstance(values, Iterable)
        or isinstance(values, (str, bytes, Mapping, set, frozenset))
        or getattr(values, "ndim", 1) == 0
    ):
        raise InvalidRewards(
            f"a reward function has to return a list of {num_completions} floats, got {reprlib.repr(values)}"
        )
    rewards = tuple(values)
    if len(rewards) != num_completions:
        raise InvalidRewards(f"{len(rewards)} rewards for {num_completions} completions; return one float for each")
    return tuple(_as_float(value, index, num_completions) for index, value in enumerate(rewards))


def _as_float(value: object, index: int, num_completions: int) -> float | None:
    if value is None:
        return None
    which = f"reward {index + 1} of {num_completions} is {reprlib.repr(value)}"
    item = getattr(value, "item", None)
    if getattr(value, "ndim", None) == 0 and item is not None:
        value = item()
    if not isinstance(value, numbers.Real):
        raise InvalidRewards(f"{which}, which is not a number; return one float, or None, for each completion")
    try:
        reward = float(value)
    except OverflowError:
        reward = math.inf
    if not math.isfinite(reward):
        raise InvalidRewards(f"{which}; return a finite float for each completion")
    return reward
