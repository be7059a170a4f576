"""Reads AVQA's own JSON.

`train_qa.json` and `val_qa.json` are arrays of objects with `id`, `video_name`, `question_text`, `multi_choice` and
`answer` (a 0-based index); R1-AQA keeps the same rows as JSON lines. Clips lie in one folder, named after the video,
and hold sound alone or the whole video.
"""

from __future__ import annotations

import re
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder, normal_form
from ssr1_rl.data.records import read_records
from ssr1_rl.data.rows import ReadResult, Row, read_rows
from ssr1_rl.errors import UserError
from ssr1_rl.types import AudioRef, Question

CLIP_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".mp4", ".mkv", ".webm")
"""Suffixes of clips, in the order in which they are tried: sound before video, which has to be demuxed."""

_USED = ("id", "question_text", "multi_choice", "answer", "question_type")


def read_avqa(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        UserError: the file is missing or is not JSON; the folder of clips is missing.
    """
    records = read_records(config.path)
    folder = ClipFolder(config)
    if not folder.path.is_dir():
        raise UserError(f"{folder.path}: no such folder of clips; fix the data set's audio_dir")
    clips = _AvqaClips(folder)

    def to_question(row: Row, source: str) -> Question:
        answer, choices = row.answer("answer", row.choices("multi_choice"), index_only=True)
        return Question(
            id=row.id(),
            text=row.text("question_text"),
            ground_truth=answer,
            choices=choices,
            audio=(AudioRef(str(folder.path / clips.file_of(row.text("video_name")))),),
            kind=row.kind("question_type"),
            source=source,
            metadata=row.further(*_USED),
        )

    return read_rows(config, records, to_question)


class _AvqaClips:
    """Finds the file of a video's clip in one listing, not by up to 14 look-ups per row: AVQA has 57,000 clips."""

    def __init__(self, folder: ClipFolder) -> None:
        self._folder = folder
        # By the name with a small suffix: clip.WAV counts as clip.wav.
        self._files = {
            Path(normal).stem + Path(normal).suffix.lower(): names[0]
            for normal, names in folder.listing(folder.path).items()
        }

    def file_of(self, video_name: str) -> str:
        """`-HG3Omg_89c_000030` is AVQA's own name, `-HG3Omg_89c_30` is R1-AQA's."""
        match = re.fullmatch(r"(.+)_(\d{1,9})", video_name)
        short = f"{match[1]}_{int(match[2])}" if match else video_name
        stems = [normal_form(stem) for stem in dict.fromkeys((video_name, short))]
        for suffix in CLIP_SUFFIXES:
            for stem in stems:
                if stem + suffix in self._files:
                    return self._files[stem + suffix]
        names = " or ".join(stems)
        suffixes = f"(.wav, .mp4 or another of {len(CLIP_SUFFIXES)})"
        raise self._folder.missing(
            f"no clip named {names} {suffixes} in {self._folder.path}", video_name + ".wav", "video_name"
        )
