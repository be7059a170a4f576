"""Questions whose row is fine, but not their clip, video or prompt: listed, counted, and too many stop the run."""

import hashlib
import json
from pathlib import Path
from typing import TypedDict

from ssr1_rl.data.audio import AudioError
from ssr1_rl.data.frames import VideoError
from ssr1_rl.data.prompt import PromptTooLong
from ssr1_rl.errors import UserError
from ssr1_rl.files import SetAside
from ssr1_rl.types import Question

UNUSABLE = (AudioError, VideoError, PromptTooLong)
"""Raised for a question that cannot be used."""


class TooManyUnusable(UserError):
    """More questions than `data.max_skipped_share` cannot be used."""


class SkipState(TypedDict):
    """The list's part of a checkpoint: a digest of every question tried, and why some of them cannot be used."""

    tried: list[str]
    reasons: dict[str, str]


class SkipList:
    """Counts the training questions that cannot be used, lists each, and stops the run when they are too many.

    It checks their share of the questions tried so far, each question counted once, as soon as
    `MIN_TRIED` questions were tried (all of them, if the data set is smaller). A question that is in the file already,
    from before a resume, is not listed there again.

    Raises:
        TooManyUnusable: by `used` and `skipped`, when the share is above `max_skipped_share`.
    """

    MIN_TRIED = 100

    def __init__(self, path: Path, max_skipped_share: float, num_questions: int) -> None:
        self._path = path
        self._max_share = max_skipped_share
        self._min_tried = min(self.MIN_TRIED, num_questions)
        self._tried: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._listed: set[str] | None = None

    @property
    def num_skipped(self) -> int:
        """Number of different questions that cannot be used."""
        return len(self._reasons)

    def used(self, question: Question) -> None:
        """Counts a usable question; one that was unusable before a resume, and now is not, is forgiven."""
        key = _key(question.id)
        self._tried.add(key)
        self._reasons.pop(key, None)
        self._check()

    def skipped(self, question: Question, error: Exception) -> None:
        """Lists and counts an unusable question, only the first time."""
        key = _key(question.id)
        self._tried.add(key)
        self._reasons.setdefault(key, str(error))
        self.record(question, error)
        self._check()

    def record(self, question: Question, error: Exception) -> None:
        """Writes a question and why it cannot be used into the file, if it is not there yet; counts nothing."""
        if self._listed is None:
            self._listed = _listed_in(self._path)
        key = _key(question.source, question.id)
        if key not in self._listed:
            self._listed.add(key)
            row = {"question_id": question.id, "source": question.source, "reason": str(error)}
            with self._path.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def set_aside(self, aside: SetAside) -> None:
        """Renames the file, which another run wrote; this run begins a new one."""
        if self._path.exists():
            aside.move(self._path)
        self._listed = None

    def state_dict(self) -> SkipState:
        """Everything that `load_state_dict` needs to count on from here."""
        return {"tried": sorted(self._tried), "reasons": dict(self._reasons)}

    def load_state_dict(self, state: SkipState) -> None:
        """Continues the counts of a checkpoint."""
        self._tried, self._reasons = set(state["tried"]), dict(state["reasons"])

    def _check(self) -> None:
        if len(self._tried) >= self._min_tried and self.num_skipped > self._max_share * len(self._tried):
            raise TooManyUnusable(
                f"{self.num_skipped} of the first {len(self._tried)} questions cannot be used, more than "
                f"data.max_skipped_share={self._max_share:g}; the last one: {list(self._reasons.values())[-1]}. "
                f"All are listed in {self._path}; fix them, or raise data.max_skipped_share"
            )


def _key(*names: str) -> str:
    """A short name of a question, however long its own is."""
    text = json.dumps(names)  # escapes lone surrogates
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _listed_in(path: Path) -> set[str]:
    """The questions in a file; lines that are no rows, such as a killed run's last one, are ended and left there."""
    if not path.exists():
        return set()
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
    keys = set()
    for line in content.splitlines():
        try:
            row = json.loads(line)
            keys.add(_key(row["source"], row["question_id"]))
        except (ValueError, KeyError, TypeError):
            continue
    return keys
