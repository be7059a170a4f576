"""Reads AVQA's own JSON.

`train_qa.json` and `val_qa.json` are arrays of objects with `id`, `video_name`, `question_text`, `multi_choice` and
`answer` (a 0-based index). Clips lie in one folder, named after the video, and hold sound alone or the whole video.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.rows import ReadResult, Row, RowError, audio_dir_of, read_rows, read_text
from ssr1_rl.types import AudioRef, Question

CLIP_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".mp4", ".mkv", ".webm")
"""Suffixes of clips, in the order in which they are tried: sound before video, which has to be demuxed."""


def read_avqa(config: DatasetConfig) -> ReadResult:
    """Reads one split.

    Raises:
        ValueError: the file is missing, is not JSON, or is not an array; the folder of clips is missing.
    """
    rows = _read_array(config.path)
    audio_dir = audio_dir_of(config)
    if not audio_dir.is_dir():
        raise ValueError(f"{audio_dir}: no such folder of clips; fix the data set's audio_dir")
    # One listing instead of up to 14 look-ups per row: AVQA has 57,000 clips, often on a network disk.
    file_names = {entry.name for entry in os.scandir(audio_dir)}

    def to_question(value: object, source: str) -> Question:
        row = Row(value)
        choices = row.choices("multi_choice")
        video_name = row.text("video_name")
        return Question(
            id=row.id(),
            text=row.text("question_text"),
            ground_truth=row.choice_at("answer", choices),
            choices=choices,
            audio=(AudioRef(str(audio_dir / _find_clip(video_name, file_names, audio_dir))),),
            kind=str(row.get("question_type") or ""),
            source=source,
            metadata=row.present("video_name", "video_id", "question_relation"),
        )

    return read_rows(config, enumerate(rows, start=1), to_question)


def _read_array(path: str) -> list[object]:
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} line {error.lineno} column {error.colno}: is not JSON ({error.msg}); fix or fetch it again"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON array of questions, got {type(rows).__name__}; is it AVQA's file?")
    return rows


def _find_clip(video_name: str, file_names: set[str], audio_dir: Path) -> str:
    """The file of a video's clip: `-HG3Omg_89c_000030` is AVQA's own name, `-HG3Omg_89c_30` is R1-AQA's."""
    match = re.fullmatch(r"(.+)_(\d+)", video_name)
    short = f"{match[1]}_{int(match[2])}" if match else video_name
    stems = list(dict.fromkeys((video_name, short)))
    for suffix in CLIP_SUFFIXES:
        for stem in stems:
            if stem + suffix in file_names:
                return stem + suffix
    names = " or ".join(stems)
    raise RowError(
        "video_name", f"no clip named {names} (.wav, .mp4 or another of {len(CLIP_SUFFIXES)}) in {audio_dir}"
    )
