"""Reads MMAU's own JSON (`mmau-test-mini.json`), an array of objects.

Fields: `id`, `audio_id` (a path such as `./test-mini-audios/<id>.wav`, relative to the folder of clips), `question`,
`choices` and `answer` (the text of one). `task` (sound, music or speech) is the kind of question.
"""

from __future__ import annotations

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.records import read_records
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.data.videos import VideoFolder
from ssr1_rl.types import Question


def read_mmau(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        UserError: the file cannot be read.
    """
    folder, videos = ClipFolder(config), VideoFolder(config)

    def to_question(row: Row) -> Question:
        answer, choices = row.answer("answer", row.choices("choices"))
        clips = (folder.find(row.value("audio_id"), "audio_id"),)
        return Question(
            id=row.id(),
            text=row.text("question"),
            ground_truth=answer,
            choices=choices,
            audio=clips,
            video=videos.of_clip(clips, folder.path, "audio_id"),
            kind=row.kind("task"),
            source=row.source,
            metadata=row.further("id", "question", "choices", "answer", "task"),
        )

    return read_rows(config, read_records(config.path), to_question, lambda row: row.kind("task"))
