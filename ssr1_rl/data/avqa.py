"""Reads AVQA's own JSON.

`train_qa.json` and `val_qa.json` are arrays of objects with `id`, `video_name`, `question_text`, `multi_choice` and
`answer` (a 0-based index); R1-AQA keeps the same rows as JSON lines. Clips lie in one folder, named after the video,
and hold sound alone or the whole video.
"""

from __future__ import annotations

import re

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder, without_suffix
from ssr1_rl.data.records import read_records
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.data.videos import VideoFolder
from ssr1_rl.errors import UserError
from ssr1_rl.types import Question

_USED = ("id", "question_text", "multi_choice", "answer", "question_type")


def read_avqa(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        UserError: the file is missing or is not JSON; the folder of clips is missing.
    """
    records = read_records(config.path)
    folder, videos = ClipFolder(config), VideoFolder(config)
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder of clips; fix the data set's audio_dir")

    def to_question(row: Row) -> Question:
        answer, choices = row.answer("answer", row.choices("multi_choice"), index_only=True)
        name = row.text("video_name")
        return Question(
            id=row.id(),
            text=row.text("question_text"),
            ground_truth=answer,
            choices=choices,
            audio=(folder.find_named(name, stems_of(name), "video_name"),),
            video=videos.named(stems_of(name), "video_name"),
            kind=row.kind("question_type"),
            source=row.source,
            metadata=row.further(*_USED),
        )

    return read_rows(config, records, to_question, lambda row: row.kind("question_type"))


def stems_of(video_name: str) -> list[str]:
    """The names of a video's files: `-HG3Omg_89c_000030` is AVQA's own, `-HG3Omg_89c_30` is R1-AQA's."""
    stem = without_suffix(video_name)
    match = re.fullmatch(r"(.+)_(\d{1,9})", stem)
    return [stem, f"{match[1]}_{int(match[2])}"] if match else [stem]
