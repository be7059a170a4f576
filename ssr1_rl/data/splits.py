"""All splits of a run, read: the questions of each, and the rows that were left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.data.read import is_there, read_questions
from ssr1_rl.data.rows import SkippedRow
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.types import Question


@dataclass(frozen=True)
class Split:
    """One split that was read."""

    setting: str  # its section in the settings, such as data.validation.mmau
    dataset: DatasetConfig
    questions: list[Question]
    skipped: list[SkippedRow]
    notes: tuple[str, ...] = ()  # what a user may not expect of the questions

    @property
    def num_with_audio(self) -> int:
        """Questions with at least one clip."""
        return sum(bool(question.audio) for question in self.questions)

    @property
    def clip_formats(self) -> dict[str, int]:
        """Number of clips by the suffix of their files."""
        suffixes = Counter(Path(ref.path).suffix.lower() or "none" for q in self.questions for ref in q.audio)
        return dict(suffixes.most_common())


@dataclass(frozen=True)
class Splits:
    """The splits of a run."""

    train: Split
    validation: dict[str, Split]

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, *self.validation.values()))

    @property
    def max_clips(self) -> int:
        """Most clips of one question."""
        return max(len(question.audio) for split in self for question in split.questions)


def read_splits(config: DataConfig) -> Splits:
    """Reads every split.

    Raises:
        UserError: a file cannot be read, or too many of its rows cannot be used; the message names the setting.
    """
    share = config.max_skipped_share
    return Splits(
        read_split(config.train, "data.train", share),
        {name: read_split(split, f"data.validation.{name}", share) for name, split in config.validation.items()},
    )


def read_split(dataset: DatasetConfig, setting: str, max_skipped_share: float) -> Split:
    """Reads one split; raises like `read_splits`. `setting` is its section in the settings."""
    check_paths(dataset, setting)
    try:
        result = read_questions(dataset, max_skipped_share)
    except UserError as error:
        raise UserError(f"{setting}: {error}") from error
    return Split(setting, dataset, result.questions, result.skipped, result.notes)


def check_paths(dataset: DatasetConfig, setting: str) -> None:
    """Refuses paths that lead nowhere.

    Raises:
        MissingFile: with the setting.
    """
    if not is_there(dataset):
        raise MissingFile(f"{setting}.path {dataset.path} is not a file (looked for in {Path.cwd()}); give a data file")
    for name in ("audio_dir", "video_dir"):
        folder = getattr(dataset, name)
        if folder and not Path(folder).is_dir():
            raise MissingFile(f"{setting}.{name} {folder} is not a folder (looked for in {Path.cwd()}); set it right")
