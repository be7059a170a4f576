"""The names of metrics in docs/metrics.md, to be compared with those that are written."""

import re
from collections.abc import Iterable
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"


def documented() -> list[str]:
    """Every name in the first column of a table; <split> and the like stand for a run's own names."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def undocumented(written: Iterable[str]) -> list[str]:
    """Those of `written` that the page does not explain."""
    patterns = [_pattern(name) for name in documented()]
    return sorted(name for name in set(written) if not any(re.fullmatch(pattern, name) for pattern in patterns))


def never_written(written: Iterable[str]) -> list[str]:
    """Those that the page explains and that are not in `written`."""
    return [name for name in documented() if not any(re.fullmatch(_pattern(name), found) for found in written)]


def _pattern(name: str) -> str:
    """A reward's or a split's name is any one part of a path."""
    return re.sub(r"<\w+>", "[^/]+", name)
