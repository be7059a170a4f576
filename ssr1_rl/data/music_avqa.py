"""Reads MUSIC-AVQA's own JSON (`avqa-train.json`, `avqa-val.json`, `avqa-test.json`, and those of `json_update`).

Fields: `video_id` (names clip and video), `question_id`, `type` and `templ_values` (texts that hold lists),
`question_content` (a template) and `anser`. `question_deleted` marks rows that its authors withdrew.

The kind of a question is its type in words, such as "Audio Counting" or "Audio-Visual Temporal". There are no choices.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder, without_suffix
from ssr1_rl.data.records import Record, read_records
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.data.videos import VideoFolder
from ssr1_rl.types import Question

_USED = ("question_id", "video_id", "type", "question_content", "templ_values", "anser")
_PLACEHOLDER = re.compile(r"<.*>|<\S*", re.DOTALL)
_MAX_CHARS = 10_000


def read_music_avqa(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        UserError: the file cannot be read.
    """
    folder, videos = ClipFolder(config), VideoFolder(config)

    def to_question(row: Row) -> Question:
        name = row.text("video_id")
        answer, _ = row.answer("anser")
        return Question(
            id=row.id("question_id"),
            text=filled_in(row.text("question_content"), _texts(row, "templ_values")),
            ground_truth=answer,
            audio=(folder.find_named(name, [without_suffix(name)], "video_id"),),
            video=videos.named([without_suffix(name)], "video_id"),
            kind=_kind(row),
            source=row.source,
            metadata=row.further(*_USED) | {"video_id": name, "template": row.text("question_content")},
        )

    records = read_records(config.path)
    asked = [record for record in records if not _is_withdrawn(record)]
    result = read_rows(config, asked, to_question, _kind)
    if len(asked) == len(records):
        return result
    note = f"{config.path}: {len(records) - len(asked):,} questions that their authors withdrew are left out"
    return replace(result, notes=(*result.notes, note))


def _is_withdrawn(record: Record) -> bool:
    return isinstance(record.value, dict) and bool(record.value.get("question_deleted"))


def filled_in(template: str, values: list[str]) -> str:
    """The question: each word with a placeholder gets the next value, as the data set's own loader does it.

    That loader drops the question mark first; here the marks around a placeholder stay.

    Raises:
        RowError: there are fewer values than such words.
    """
    words = template.split(" ")
    places = [place for place, word in enumerate(words) if "<" in word]
    if len(places) > len(values):
        raise RowError(
            "templ_values", f"{shown(template)} needs {len(places)} values, got {shown(values)}; leave the row out"
        )
    for place, value in zip(places, values, strict=False):
        words[place] = _PLACEHOLDER.sub(lambda _, value=value: value, words[place], count=1)
    return " ".join(words)


def _kind(row: Row) -> str:
    return " ".join(_texts(row, "type"))


def _texts(row: Row, field: str) -> list[str]:
    """A list of texts, or the text of such a list in the notation of JSON or of Python."""
    value = row.value(field)
    found = _parsed(value) if isinstance(value, str) and len(value) <= _MAX_CHARS else value
    if not isinstance(found, list) or not all(isinstance(inner, str) for inner in found):
        raise RowError(field, f"expected a list of texts, or a text that holds one, got {shown(value)}")
    return [inner.strip() for inner in found]


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
