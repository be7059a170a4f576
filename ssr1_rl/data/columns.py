"""Rows whose columns the settings name -> questions: what JSON lines, Parquet and Hugging Face data sets share."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.records import Record
from ssr1_rl.data.row_error import shown
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.data.videos import VideoFolder
from ssr1_rl.errors import UserError
from ssr1_rl.types import AudioRef, Question, VideoRef


def used_columns(config: DatasetConfig) -> set[str]:
    """The columns that a question is made of; all others are metadata."""
    roles = dataclasses.asdict(config.columns)
    if not config.video_dir:
        del roles["video"]
    return {column for column in roles.values() if column}


def read_by_columns(config: DatasetConfig, records: Iterable[Record], folder: ClipFolder) -> ReadResult:
    """Reads rows; `folder` holds the clips that they name.

    Raises:
        UserError: the settings name a column that no row has.
    """
    reader = _Reader(config, folder)
    seen: set[str] = set()
    result = read_rows(config, _keys_noted(records, seen), reader.question, reader.kind)
    for role, column in dataclasses.asdict(config.columns).items():
        if column and column != role and column not in seen and seen:
            raise UserError(
                f"{config.path}: the data set's columns.{role} is {column!r}, which no row has; the rows have "
                f"{shown(sorted(seen))}"
            )
    return result


def _keys_noted(records: Iterable[Record], seen: set[str]) -> Iterator[Record]:
    """The records as they are; adds the keys of each to `seen`."""
    for record in records:
        if isinstance(record.value, dict):
            seen.update(record.value)
        yield record


class _Reader:
    """Makes a question of each row."""

    def __init__(self, config: DatasetConfig, folder: ClipFolder) -> None:
        self._columns, self._used = config.columns, used_columns(config)
        self._clips, self._videos = folder, VideoFolder(config)

    def kind(self, row: Row) -> str:
        return row.kind(self._columns.kind) if self._columns.kind else ""

    def question(self, row: Row) -> Question:
        columns = self._columns
        value = row.get(columns.choices) if columns.choices else None
        written = () if value in (None, []) else row.choices(columns.choices)
        answer, choices = row.answer(columns.answer, written)
        clips = self._clips.clips(row.get(columns.audio), columns.audio) if columns.audio else ()
        return Question(
            id=row.id(columns.id) if columns.id else str(row.number),
            text=row.text(columns.question),
            ground_truth=answer,
            choices=choices,
            audio=clips,
            video=self._video(row, clips),
            kind=self.kind(row),
            source=row.source,
            metadata=row.further(*self._used),
        )

    def _video(self, row: Row, clips: tuple[AudioRef, ...]) -> VideoRef | None:
        column = self._columns.video
        value = row.given(column) if column else None
        if value is None:
            return self._videos.of_clip(clips, self._clips.path, column or "video")
        return self._videos.find(value, column)
