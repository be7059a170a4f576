"""Questions whose row is fine but whose clip or prompt is not: listed in a file, counted, and too many stop the run."""

import json
from pathlib import Path

from ssr1_rl.data.audio import AudioError
from ssr1_rl.data.prompt import PromptTooLong
from ssr1_rl.errors import UserError
from ssr1_rl.types import Question

UNUSABLE = (AudioError, PromptTooLong)
"""Raised for a question that cannot be used."""


class TooManyUnusable(UserError):
    """More questions than `data.max_skipped_share` cannot be used."""


class SkipList:
    """Counts the questions that cannot be used, lists each in a file, and stops the run when they are too many.

    It checks their share of the questions tried so far, each question counted once, as soon as
    `MIN_TRIED` questions were tried (all of them, if the data set is smaller).

    Raises:
        TooManyUnusable: by `used` and `skipped`, when the share is above `max_skipped_share`.
    """

    MIN_TRIED = 100

    def __init__(self, path: Path, max_skipped_share: float, num_questions: int) -> None:
        self._path = path
        self._max_share = max_skipped_share
        self._min_tried = min(self.MIN_TRIED, num_questions)
        self._tried: set[tuple[str, str]] = set()
        self._reasons: dict[tuple[str, str], str] = {}

    @property
    def num_skipped(self) -> int:
        """Number of different questions that cannot be used."""
        return len(self._reasons)

    def used(self, question: Question) -> None:
        """Counts a usable question."""
        self._tried.add((question.source, question.id))
        self._check()

    def skipped(self, question: Question, error: Exception) -> None:
        """Lists and counts an unusable question, only the first time."""
        key = (question.source, question.id)
        if key not in self._reasons:
            self._tried.add(key)
            self._reasons[key] = str(error)
            row = {"question_id": question.id, "source": question.source, "reason": str(error)}
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        self._check()

    def _check(self) -> None:
        if len(self._tried) >= self._min_tried and self.num_skipped > self._max_share * len(self._tried):
            raise TooManyUnusable(
                f"{self.num_skipped} of the first {len(self._tried)} questions cannot be used, more than "
                f"data.max_skipped_share={self._max_share:g}; the last one: {list(self._reasons.values())[-1]}. "
                f"All are listed in {self._path}; fix them, or raise data.max_skipped_share"
            )
