"""Reads a format for users' own data: JSON lines, or a JSON array, of objects.

Fields: `id`; `question`; `answer` (a text or a number; with choices the text, the letter or the 0-based index of one);
optional `choices`; optional `audio` (a path or a list of paths, relative to the folder of clips); optional `kind`.
All further fields become the question's `metadata`. A row without `audio` is a text-only question, one without
`choices` an open one; an empty list says so explicitly.
"""

from __future__ import annotations

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.records import read_records
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.types import AudioRef, Question

_USED = ("id", "question", "answer", "choices", "audio", "kind")


def read_jsonl(config: DatasetConfig) -> ReadResult:
    """Reads one split; blank lines are ignored.

    Raises:
        UserError: the file cannot be read.
    """
    folder = ClipFolder(config)

    def to_question(row: Row, source: str) -> Question:
        written = () if row.get("choices") in (None, []) else row.choices("choices")
        answer, choices = row.answer("answer", written)
        return Question(
            id=row.id(),
            text=row.text("question"),
            ground_truth=answer,
            choices=choices,
            audio=_audio(row, folder),
            kind=row.kind("kind"),
            source=source,
            metadata=row.further(*_USED),
        )

    return read_rows(config, read_records(config.path), to_question)


def _audio(row: Row, folder: ClipFolder) -> tuple[AudioRef, ...]:
    value = row.get("audio")
    names = [] if value is None else value if isinstance(value, list) else [value]
    return tuple(folder.find(name, "audio") for name in names)
