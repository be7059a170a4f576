"""A field of the schema that has bounds or other rules of its own."""

import operator
from dataclasses import Field, field
from typing import TypeVar

T = TypeVar("T")

HOLDS = {"at least": operator.ge, "greater than": operator.gt, "at most": operator.le, "less than": operator.lt}
"""How each kind of bound compares a value with its limit; true if the value is allowed."""

LARGEST_INT = 2**31 - 1
LARGEST_FLOAT = 1e9
"""Bounds of every number that has no upper (or lower) bound of its own: what is beyond them is a slip. Torch, Ray and
vLLM hold sizes and time-outs in C integers and in durations that end soon after them."""


def setting(
    default: T,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    why: str = "",
    filled: bool = False,
    shown: bool = False,
) -> T:
    """A dataclass field with rules of its own.

    Args:
        ge, gt, le, lt: bounds of a number.
        why: added to the error of a bound.
        filled: text that must not be empty, such as a path.
        shown: text that is shown and saved with its value even if it comes from the environment.
    """
    limits = {"at least": ge, "greater than": gt, "at most": le, "less than": lt}
    bounds = {words: limit for words, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"bounds": bounds, "why": why, "filled": filled, "shown": shown})


def in_digits(limit: float) -> str:
    """A bound as errors and docs/settings.md write it."""
    return str(limit) if isinstance(limit, int) else f"{limit:g}"


def limits(spec: "Field[object]", value: float) -> dict[str, float]:
    """The bounds of a number in a field, the general ones included, in words: {"at least": 1}."""
    own = spec.metadata.get("bounds", {})
    general = LARGEST_INT if isinstance(value, int) else LARGEST_FLOAT
    upper = {} if value == spec.default or {"at most", "less than"} & own.keys() else {"at most": general}
    lower = {} if {"at least", "greater than"} & own.keys() else {"at least": -general}
    return own | lower | upper
