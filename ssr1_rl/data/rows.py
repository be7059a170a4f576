"""What all readers share: the checks of a row, and the record of rows that were left out.

A row that cannot be used is no crash: it becomes a `SkippedRow` that says where
and why, and `check_skipped` stops the run when there are too many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ssr1_rl.types import Question


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out.

    Attributes:
        source: the file it came from.
        row: its number, counted from 1 (in a JSONL file the line number).
        field: the field that is wrong.
        reason: what is wrong with it, its value included.
    """

    source: str
    row: int
    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.source} row {self.row}: {self.field}: {self.reason}"


@dataclass(frozen=True)
class ReadResult:
    """Questions of one file, and what was left out of it."""

    questions: list[Question]
    skipped: list[SkippedRow]


class RowError(ValueError):
    """Raised while one row is read; readers turn it into a `SkippedRow`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


def collect(
    rows: Iterable[tuple[int, Any]], to_question: Callable[[int, Any], Question], *, source: str, max_questions: int
) -> ReadResult:
    """Turn (row number, row) pairs into questions; stops after `max_questions` good ones (0: reads all)."""
    questions: list[Question] = []
    skipped: list[SkippedRow] = []
    row_of_id: dict[str, int] = {}
    for row_number, row in rows:
        if max_questions and len(questions) == max_questions:
            break
        try:
            question = to_question(row_number, row)
            if question.id in row_of_id:
                raise RowError("id", f"{question.id!r} was already used by row {row_of_id[question.id]}")
        except RowError as error:
            skipped.append(SkippedRow(source, row_number, error.field, error.reason))
            continue
        row_of_id[question.id] = row_number
        questions.append(question)
    return ReadResult(questions, skipped)


def check_skipped(result: ReadResult, max_skipped_share: float) -> None:
    """Raise ValueError when more than `max_skipped_share` of the rows were left out, or all of them."""
    num_skipped, num_rows = len(result.skipped), len(result.skipped) + len(result.questions)
    if result.questions and num_skipped <= max_skipped_share * num_rows:
        return
    if not num_rows:
        raise ValueError("the file holds no rows; fix the path of the data set")
    shown = "\n".join(f"  {skipped}" for skipped in result.skipped[:5])
    more = f"\n  … and {num_skipped - 5} more" if num_skipped > 5 else ""
    raise ValueError(
        f"{num_skipped} of {num_rows} rows cannot be used, more than data.max_skipped_share={max_skipped_share}:\n"
        f"{shown}{more}\nmend these rows, or raise data.max_skipped_share"
    )


def text_field(row: dict[str, Any], field: str) -> str:
    """A field that must be a text with something in it."""
    value = present_field(row, field)
    if not isinstance(value, str):
        raise RowError(field, f"expected a text, got {value!r}")
    if not value.strip():
        raise RowError(field, "the text is empty")
    return value.strip()


def id_field(row: dict[str, Any], field: str = "id") -> str:
    """A field that names the row: a whole number or a text."""
    value = present_field(row, field)
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise RowError(field, f"expected a whole number or a text, got {value!r}")
    return str(value)


def choices_field(row: dict[str, Any], field: str) -> tuple[str, ...]:
    """A field that must be a list of at least two different, non-empty texts."""
    value = present_field(row, field)
    if not isinstance(value, list):
        raise RowError(field, f"expected a list of texts, got {value!r}")
    for position, choice in enumerate(value):
        if not isinstance(choice, str) or not choice.strip():
            raise RowError(field, f"choice {position} must be a text with something in it, got {choice!r}")
    choices = tuple(choice.strip() for choice in value)
    if len(choices) < 2:
        raise RowError(field, f"at least 2 choices are needed, got {value!r}")
    if len(set(choices)) < len(choices):
        raise RowError(field, f"choices must differ from one another, got {value!r}")
    return choices


def choice_at(field: str, index: Any, choices: tuple[str, ...]) -> str:
    """The text of a 0-based answer index."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise RowError(field, f"expected the 0-based index of a choice, got {index!r}")
    if not 0 <= index < len(choices):
        raise RowError(field, f"index {index} is out of range for {len(choices)} choices")
    return choices[index]


def present_field(row: dict[str, Any], field: str) -> Any:
    """A field that must be there."""
    if not isinstance(row, dict):
        raise RowError("row", f"expected an object, got {row!r}")
    if field not in row:
        raise RowError(field, "the field is missing")
    return row[field]


def read_text(path: str) -> str:
    """The whole of a file of questions; ValueError names the file when it cannot be read."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); fix the path of the data set") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
