"""What readers share: the checked fields of a row, and the record of rows that were skipped.

A row that cannot be used does not stop a reader: it becomes a `SkippedRow` that says where and why.
`read_questions` stops the run if there are too many of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.choices import chosen, open_answer, without_labels
from ssr1_rl.data.lookalikes import lookalikes, named
from ssr1_rl.data.records import Record
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.types import Question

_SURROGATE = re.compile("[\ud800-\udfff]")
_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|\[[^]]*\]|-?\d+(\.\d+)?|None|True|False")


@dataclass(frozen=True)
class SkippedRow:
    """A row that was skipped."""

    source: str  # its file
    row: int  # counted from 1 (in a JSONL file the line number)
    field: str  # the one that is wrong
    reason: str  # its value included
    kind: str = ""  # as in RowError

    def __str__(self) -> str:
        return f"{self.source} row {self.row}: {self.field}: {self.reason}"

    @property
    def cause(self) -> tuple[str, str]:
        """Equal for rows that were skipped for the same reason, whatever their values."""
        return self.field, self.kind or _VALUES.sub("…", self.reason)


@dataclass(frozen=True)
class ReadResult:
    """Questions of one file, and its rows that were skipped."""

    questions: list[Question]
    skipped: list[SkippedRow]
    keys: frozenset[str] = frozenset()  # of the first row


class Row:
    """A row's fields. Every method but `get` and `further` raises `RowError` if its field is missing or invalid."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, dict):
            raise RowError("row", f"expected an object, got {shown(value)}", "no object")
        self._fields: dict[str, object] = value

    def get(self, field: str) -> object:
        """The value of an optional field; None if it is missing. A key that looks like it is refused."""
        if self._fields.get(field) is None:
            similar = lookalikes(field, self._fields)
            if similar:
                raise RowError(
                    field,
                    f"the row has {named(similar)} but no {field!r}; rename it to {field!r}{_OR_NONE}",
                    "lookalike",
                )
        return self._fields.get(field)

    def further(self, *used: str) -> dict[str, object]:
        """The fields that are not `used`, with their values: the metadata of the question."""
        return {field: value for field, value in self._fields.items() if field not in used}

    def value(self, field: str) -> object:
        """The value of a required field."""
        if field not in self._fields:
            similar = lookalikes(field, self._fields)
            fix = f"; rename {named(similar)} to {field!r}" if similar else f"; the row has {shown(list(self._fields))}"
            raise RowError(field, f"the field is missing{fix}", "missing")
        return self._fields[field]

    def id(self, field: str = "id") -> str:
        """A whole number or a text that names the row."""
        value = self.value(field)
        if type(value) is int:
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise RowError(field, f"expected a whole number or a text, got {shown(value)}")
        return _characters(value, field)

    def text(self, field: str) -> str:
        """A text that is not empty, without white space around it."""
        value = self.value(field)
        if not isinstance(value, str):
            raise RowError(field, f"expected a text, got {shown(value)}")
        return _text(value, field)

    def kind(self, field: str) -> str:
        """An optional text or number that names the kind of question; empty if it is missing."""
        value = self._fields.get(field)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError(field, f"expected a text, got {shown(value)}")
        return _characters(str(value).strip(), field)

    def choices(self, field: str) -> tuple[str, ...]:
        """A list of texts, at least two of them different. A repeated one is kept: it is the same answer twice.

        Labels that all of them carry ("A. dog") are part of them here; `answer` removes them.
        """
        value = self.value(field)
        if not isinstance(value, list):
            raise RowError(field, f"expected a list of choices, got {shown(value)}")
        for position, choice in enumerate(value):
            if not isinstance(choice, str) or not choice.strip():
                raise RowError(field, f"choice {position} must be a text, got {shown(choice)}")
        choices = tuple(_characters(choice.strip(), field) for choice in value)
        if len(set(choices)) < 2:
            raise RowError(field, f"at least 2 different choices are needed, got {shown(value)}")
        return choices

    def answer(
        self, field: str, written: tuple[str, ...] = (), index_only: bool = False
    ) -> tuple[str, tuple[str, ...]]:
        """The answer's text, and the choices without labels; `chosen` and `open_answer` say what an answer may be.

        Args:
            written: the choices as `choices` gives them; empty for an open question.
            index_only: as in `chosen`.
        """
        value = self.value(field)
        if isinstance(value, str):
            value = _text(value, field)
        if not written:
            return open_answer(value, field), ()
        choices = without_labels(written)
        return chosen(value, field, written, choices, index_only), choices


_OR_NONE = ", or give an empty list if the question has none"


def _text(value: str, field: str) -> str:
    if not value.strip():
        raise RowError(field, "the text is empty")
    return _characters(value.strip(), field)


def _characters(text: str, field: str) -> str:
    """The text, if it can be written as UTF-8: JSON may hold half of a surrogate pair, and tokenizers fail on it."""
    half = None if text.isascii() else _SURROGATE.search(text)
    if half:
        raise RowError(
            field, f"holds half of a surrogate pair ({half[0]!r}), which is no character; write the whole pair", "half"
        )
    return text


def read_rows(
    config: DatasetConfig, records: Iterable[Record], to_question: Callable[[Row, str], Question]
) -> ReadResult:
    """Turns the rows of a file into questions, and stops after `max_questions` usable ones (0: never).

    `to_question` makes a question of a row and its source, or raises `RowError`.
    """
    questions: list[Question] = []
    skipped: list[SkippedRow] = []
    read: dict[str, tuple[int, Question]] = {}
    keys: frozenset[str] = frozenset()
    for record in records:
        if config.max_questions and len(questions) == config.max_questions:
            break
        try:
            if isinstance(record.value, RowError):
                raise record.value
            row = Row(record.value)
            keys = keys or frozenset(row.further())
            question = to_question(row, f"{config.path} row {record.number}")
            if question.id in read:
                raise _repeated(question, *read[question.id])
        except RowError as error:
            skipped.append(SkippedRow(config.path, record.number, error.field, error.reason, error.kind))
            continue
        read[question.id] = record.number, question
        questions.append(question)
    return ReadResult(questions, skipped, keys)


def _repeated(question: Question, first_row: int, first: Question) -> RowError:
    same = (question.text, question.choices, question.audio) == (first.text, first.choices, first.audio)
    fix = "for the same question; remove one of them" if same else "for another question; give it an id of its own"
    return RowError("id", f"{question.id!r} was already used by row {first_row} {fix}")
