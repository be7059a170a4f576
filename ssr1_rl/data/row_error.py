"""The error of one row, and how errors show a value."""

from __future__ import annotations

MAX_SHOWN = 120


class RowError(ValueError):
    """A row cannot be used; `read_rows` turns it into a `SkippedRow`.

    Args:
        field: the field that is wrong.
        reason: what is wrong with it, its value included, and the fix.
        kind: names the reason without its values, if `reason` holds more of them than quotes and digits show: rows
            that fail for one reason are reported together.
    """

    def __init__(self, field: str, reason: str, kind: str = "") -> None:
        super().__init__(field, reason, kind)
        self.field = field
        self.reason = reason
        self.kind = kind


def shown(value: object) -> str:
    """A value as errors write it: its `repr`, cut after `MAX_SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}… ({len(text):,} characters)"
