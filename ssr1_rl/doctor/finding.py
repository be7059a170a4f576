"""What a check found: what, why it matters, and the fix."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """`error`: a run would fail or be wrong; `warning`: it may be slow, or fail in some cases."""

    level: Level
    what: str
    why: str = ""
    fix: str = ""


def ok(what: str) -> Finding:
    """A check that passed."""
    return Finding("ok", what)


def warning(what: str, why: str, fix: str) -> Finding:
    """Something that probably should change."""
    return Finding("warning", what, why, fix)


def error(what: str, why: str, fix: str) -> Finding:
    """Something that has to change."""
    return Finding("error", what, why, fix)
