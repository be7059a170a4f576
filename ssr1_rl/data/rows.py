"""What all readers share: a row with checked fields, and the record of rows that were skipped.

A row that cannot be used does not stop a reader: it becomes a `SkippedRow` that says where and why.
`read_questions` stops the run if there are too many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.types import Question

RawRow = TypeVar("RawRow")


@dataclass(frozen=True)
class SkippedRow:
    """A row that was skipped."""

    source: str  # its file
    row: int  # counted from 1 (in a JSONL file the line number)
    field: str  # the one that is wrong
    reason: str  # its value included

    def __str__(self) -> str:
        return f"{self.source} row {self.row}: {self.field}: {self.reason}"


@dataclass(frozen=True)
class ReadResult:
    """Questions of one file, and its rows that were skipped."""

    questions: list[Question]
    skipped: list[SkippedRow]


class RowError(ValueError):
    """A row cannot be used; `read_rows` turns it into a `SkippedRow`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


class Row:
    """A row's fields. Every method but `get` and `present` raises `RowError` if its field is missing or invalid."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise RowError("row", f"expected an object, got {value!r}")
        self._fields: dict[str, object] = value

    def get(self, field: str) -> object:
        """The value of an optional field; None if it is missing."""
        return self._fields.get(field)

    def present(self, *fields: str) -> dict[str, object]:
        """The given fields that the row has, with their values."""
        return {field: self._fields[field] for field in fields if field in self._fields}

    def value(self, field: str) -> object:
        """The value of a required field."""
        if field not in self._fields:
            raise RowError(field, "the field is missing")
        return self._fields[field]

    def id(self, field: str = "id") -> str:
        """A whole number or a text that names the row."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
            raise RowError(field, f"expected a whole number or a text, got {value!r}")
        return str(value)

    def text(self, field: str) -> str:
        """A text that is not empty, without white space around it."""
        value = self.value(field)
        if not isinstance(value, str):
            raise RowError(field, f"expected a text, got {value!r}")
        if not value.strip():
            raise RowError(field, "the text is empty")
        return value.strip()

    def choices(self, field: str) -> tuple[str, ...]:
        """A list of at least two different, non-empty texts."""
        value = self.value(field)
        if not isinstance(value, list):
            raise RowError(field, f"expected a list of choices, got {value!r}")
        for position, choice in enumerate(value):
            if not isinstance(choice, str) or not choice.strip():
                raise RowError(field, f"choice {position} must be a text, got {choice!r}")
        choices = tuple(choice.strip() for choice in value)
        if len(choices) < 2:
            raise RowError(field, f"at least 2 choices are needed, got {value!r}")
        if len(set(choices)) < len(choices):
            raise RowError(field, f"choices must differ from one another, got {value!r}")
        return choices

    def choice_at(self, field: str, choices: tuple[str, ...]) -> str:
        """The text of the choice whose 0-based index the field holds."""
        index = self.value(field)
        if isinstance(index, bool) or not isinstance(index, int):
            raise RowError(field, f"expected the 0-based index of a choice, got {index!r}")
        if not 0 <= index < len(choices):
            raise RowError(field, f"index {index} is out of range for {len(choices)} choices")
        return choices[index]


def read_rows(
    config: DatasetConfig, rows: Iterable[tuple[int, RawRow]], to_question: Callable[[RawRow, str], Question]
) -> ReadResult:
    """Turns numbered rows into questions, and stops after `max_questions` usable ones (0: never).

    `to_question` makes a question of a row and its source, or raises `RowError`.
    """
    questions: list[Question] = []
    skipped: list[SkippedRow] = []
    row_of_id: dict[str, int] = {}
    for number, row in rows:
        if config.max_questions and len(questions) == config.max_questions:
            break
        try:
            question = to_question(row, f"{config.path} row {number}")
            if question.id in row_of_id:
                raise RowError("id", f"{question.id!r} was already used by row {row_of_id[question.id]}")
        except RowError as error:
            skipped.append(SkippedRow(config.path, number, error.field, error.reason))
            continue
        row_of_id[question.id] = number
        questions.append(question)
    return ReadResult(questions, skipped)


def audio_dir_of(config: DatasetConfig) -> Path:
    """The folder of the data set's clips: `audio_dir`, or else the folder of its file of questions."""
    return Path(config.audio_dir) if config.audio_dir else Path(config.path).parent


def read_text(path: str) -> str:
    """The whole text of a file of questions.

    Raises:
        ValueError: the file cannot be read; the message names it.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path of the data set") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
