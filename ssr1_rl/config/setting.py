"""A field of the schema that has bounds."""

import operator
from dataclasses import field
from typing import TypeVar

T = TypeVar("T")

HOLDS = {"at least": operator.ge, "greater than": operator.gt, "at most": operator.le, "less than": operator.lt}
"""How each kind of bound compares a value with its limit; true if the value is allowed."""


def setting(
    default: T,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    why: str = "",
) -> T:
    """A dataclass field whose number has bounds. `why` is added to the error of a bound."""
    limits = {"at least": ge, "greater than": gt, "at most": le, "less than": lt}
    bounds = {words: limit for words, limit in limits.items() if limit is not None}
    return field(default=default, metadata={"bounds": bounds, "why": why})
