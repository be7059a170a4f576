"""What readers share: the checked fields of a row, and the record of rows that were skipped.

A row that cannot be used does not stop a reader: it becomes a `SkippedRow` that says where and why.
`read_questions` stops the run if there are too many of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.choices import chosen, open_answer, without_labels
from ssr1_rl.data.given_choices import with_choices
from ssr1_rl.data.lookalikes import lookalikes, named
from ssr1_rl.data.records import Record
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.errors import UserError
from ssr1_rl.types import Question

HAVE_COLUMNS = ("huggingface", "jsonl", "parquet")
"""Formats whose fields the data set's `columns` name."""

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
    notes: tuple[str, ...] = ()  # what a user may not expect of the questions


class Row:
    """A row's fields. Every method but `given` and `further` raises `RowError` if its field is missing or invalid.

    Args:
        value: the row as it is in the file.
        number: its place among the rows, counted from 1.
        source: its file and row, for error messages.
        has_columns: whether the data set's `columns` name the fields.
    """

    def __init__(self, value: object, number: int = 1, source: str = "", has_columns: bool = False) -> None:
        if not isinstance(value, dict):
            raise RowError("row", f"expected an object, got {shown(value)}", "no object")
        self._fields: dict[str, object] = value
        self.number, self.source = number, source
        self._has_columns = has_columns

    def get(self, field: str) -> object:
        """The value of an optional field; None if it is missing. A key that looks like it is refused."""
        if self._fields.get(field) is None:
            similar = lookalikes(field, self._fields)
            if similar:
                fix = f"rename it to {field!r}{self._or_map(field, similar)}{_OR_NONE}"
                raise RowError(field, f"the row has {named(similar)} but no {field!r}; {fix}", "lookalike")
        return self._fields.get(field)

    def given(self, field: str) -> object:
        """The value of an optional field; None if it is missing, whatever other keys look like."""
        return self._fields.get(field)

    def further(self, *used: str) -> dict[str, object]:
        """The fields that are not `used`, with their values: the metadata of the question."""
        return {field: value for field, value in self._fields.items() if field not in used}

    def value(self, field: str) -> object:
        """The value of a required field."""
        if field not in self._fields:
            similar = lookalikes(field, self._fields)
            has = f"; the row has {shown(list(self._fields))}"
            fix = f"; rename {named(similar)} to {field!r}" if similar else has
            raise RowError(field, f"the field is missing{fix}{self._or_map(field, similar)}", "missing")
        return self._fields[field]

    def _or_map(self, field: str, similar: list[str]) -> str:
        """How the settings name a column, where they do."""
        return f" (or set columns: {{{field}: {similar[0] if similar else '…'}}})" if self._has_columns else ""

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
        """A list of texts or numbers, at least two of them different. A repeated one is kept: the same answer twice.

        Labels that all of them carry ("A. dog") are part of them here; `answer` removes them.
        """
        value = self.value(field)
        if not isinstance(value, list):
            raise RowError(field, f"expected a list of choices, got {shown(value)}")
        for position, choice in enumerate(value):
            if isinstance(choice, bool) or not isinstance(choice, str | int | float) or not str(choice).strip():
                raise RowError(field, f"choice {position} must be a text or a number, got {shown(choice)}")
        choices = tuple(_characters(open_answer(choice, field).strip(), field) for choice in value)
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
    config: DatasetConfig,
    records: Iterable[Record],
    to_question: Callable[[Row], Question],
    kind_of: Callable[[Row], str],
) -> ReadResult:
    """Turns rows of the wanted kinds into questions: all usable ones, or those that the settings leave.

    Of two splits of one file, of which one reads the first N questions (`max_questions`) and the other leaves them out
    (`skip_questions`), each row is in one, also if it cannot be used. `to_question` and `kind_of` make a question of a
    row, and tell its kind, or raise `RowError`.

    Raises:
        UserError: there is no row of one of the wanted kinds, or none is left.
    """
    questions: list[Question] = []
    skipped: list[tuple[int, SkippedRow]] = []  # with the number of questions before it
    read: dict[str, tuple[int, Question]] = {}
    kinds: dict[str, None] = {}
    keys: frozenset[str] = frozenset()
    has_columns = config.format in HAVE_COLUMNS
    end = config.skip_questions + config.max_questions if config.max_questions else None
    for position, record in enumerate(records, start=1):
        # Choices depend on every row, also where only some questions are wanted.
        if len(questions) == end and not config.choices_from_answers:
            break
        source = record.source or config.path
        try:
            if isinstance(record.value, RowError):
                raise record.value
            row = Row(record.value, position, f"{source} row {record.number}", has_columns)
            keys = keys or frozenset(row.further())
            if config.kinds and (kind := kind_of(row)) not in config.kinds:
                kinds[kind] = None
                continue
            question = to_question(row)
            if question.id in read:
                raise _repeated(question, *read[question.id])
        except RowError as error:
            reason = SkippedRow(source, record.number, error.field, error.reason, error.kind)
            skipped.append((len(questions), reason))
            continue
        read[question.id] = record.number, question
        questions.append(question)
    else:
        _refuse_absent_kinds(config, questions, kinds)
    notes: tuple[str, ...] = ()
    if config.choices_from_answers:
        questions, notes = with_choices(questions, config.path)
    return ReadResult(*_part(config, questions, skipped, end), keys, notes)


def _refuse_absent_kinds(config: DatasetConfig, questions: Sequence[Question], others: Iterable[str]) -> None:
    """Refuses kinds that no usable row is of; `others` are the kinds of rows that are not wanted."""
    found = {question.kind for question in questions}
    absent = [kind for kind in config.kinds if kind not in found]
    there = found.union(others)
    if absent and there:
        raise UserError(
            f"{config.path}: no usable row is of the kind {absent[0]!r}, which the data set's kinds ask for; its rows "
            f"are of {shown(sorted(there))}"
        )


def _part(
    config: DatasetConfig, questions: list[Question], skipped: Sequence[tuple[int, SkippedRow]], end: int | None
) -> tuple[list[Question], list[SkippedRow]]:
    """The questions from `skip_questions` to `end`, and the rows among them that cannot be used."""
    first = config.skip_questions
    if questions and first >= len(questions):
        raise UserError(
            f"{config.path}: the data set's skip_questions={first:,} leaves none of its {len(questions):,} usable "
            "questions; lower it"
        )
    first = first if questions else 0  # without a question, all rows say why
    return questions[first:end], [row for before, row in skipped if first <= before and (not end or before < end)]


def _repeated(question: Question, first_row: int, first: Question) -> RowError:
    same = (question.text, question.choices, question.audio) == (first.text, first.choices, first.audio)
    fix = "for the same question; remove one of them" if same else "for another question; give it an id of its own"
    return RowError("id", f"{shown(question.id)} was already used by row {first_row} {fix}", "repeated id")
