"""What a check of the data has found, in plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

ERRORS = (
    "unreadable split",
    "bad row",
    "missing clip",
    "missing video",
    "path outside",
    "answer outside choices",
    "repeated id",
    "broken clip",
    "broken video",
    "clip too long",
    "repeated question",
    "two answers",
    "question of train",
)
"""Kinds of findings that make the check fail."""

NOTES = ("clip cut", "equal clips", "clip of train")
"""Kinds of findings that a user may want to know of."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    split: str  # its section in the settings
    kind: str  # one of `ERRORS` or `NOTES`
    where: str  # the row, or the file
    reason: str

    @property
    def is_error(self) -> bool:
        """Whether it makes the check fail."""
        return self.kind in ERRORS


@dataclass(frozen=True)
class SplitSummary:
    """One split in numbers."""

    split: str
    format: str
    num_rows: int
    num_questions: int  # rows that can be read
    num_clips: int  # different files
    audio_s: float  # of them together, as far as they are used
    longest_s: float
    num_videos: int


@dataclass(frozen=True)
class Report:
    """The result of the check."""

    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]  # what readers say about a whole split

    @property
    def is_ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.is_error for finding in self.findings)

    def of_kind(self, split: str, kind: str) -> list[Finding]:
        """The findings of one kind in a split."""
        return [finding for finding in self.findings if (finding.split, finding.kind) == (split, kind)]

    def counts(self, split: str) -> dict[str, int]:
        """Number of findings of each kind in a split, errors first, without those that are zero."""
        found = Counter(finding.kind for finding in self.findings if finding.split == split)
        return {kind: found[kind] for kind in ERRORS + NOTES if found[kind]}

    def as_json(self) -> dict[str, object]:
        """Everything, in values that JSON holds."""
        return {
            "ok": self.is_ok,
            "splits": [asdict(split) | {"counts": self.counts(split.split)} for split in self.splits],
            "findings": [asdict(finding) | {"is_error": finding.is_error} for finding in self.findings],
            "notes": list(self.notes),
        }
