"""The metrics that docs/metrics.md explains, to be compared with those that are written."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


@dataclass(frozen=True)
class Row:
    """A row of the page; <split> and the like in its names stand for a run's own names."""

    names: tuple[str, ...]
    unit: str
    meaning: str


def rows() -> list[Row]:
    """Every row of every table."""
    cells = [line.strip("|").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [Row(tuple(re.findall(r"`([^`]+)`", names)), unit.strip(), text.strip()) for names, unit, text in cells]


def documented() -> list[str]:
    """Every name on the page."""
    return [name for row in rows() for name in row.names]


def undocumented(written: Iterable[str]) -> list[str]:
    """Names of `written` that the page does not explain."""
    patterns = [_pattern(name) for name in documented()]
    return sorted(name for name in set(written) if not any(re.fullmatch(pattern, name) for pattern in patterns))


def never_written(written: Iterable[str]) -> list[str]:
    """Names that the page explains and that are not in `written`."""
    return [name for name in documented() if not any(re.fullmatch(_pattern(name), found) for found in written)]


def _pattern(name: str) -> str:
    """A reward's or a split's name is any one part of a path."""
    return re.sub(r"<\w+>", "[^/]+", name)
