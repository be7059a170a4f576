"""AVQA's own JSON -> questions.

`train_qa.json` and `val_qa.json` are arrays of objects with `id`, `video_name`,
`question_text`, `multi_choice` and `answer` (a 0-based index). Clips lie in one
folder, named after the video in the layout of AVQA or of R1-AQA, as sound or as
the video itself.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ssr1_rl.config.schema import DatasetConfig
from ssr1_rl.data.rows import (
    ReadResult,
    RowError,
    choice_at,
    choices_field,
    collect,
    id_field,
    present_field,
    read_text,
    text_field,
)
from ssr1_rl.types import AudioRef, Question

CLIP_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".mp4", ".mkv", ".webm")
"""Tried in this order: sound before video, which has to be demuxed."""


def read_avqa(config: DatasetConfig) -> ReadResult:
    """Read one split.

    Raises:
        ValueError: the file is missing, is no JSON or no array; the folder of clips is missing.
    """
    rows = _read_array(config.path)
    audio_dir = Path(config.audio_dir) if config.audio_dir else Path(config.path).parent
    if not audio_dir.is_dir():
        raise ValueError(f"{audio_dir}: no such folder of clips; fix the data set's audio_dir")
    # One listing instead of up to 14 look-ups a row: AVQA has 57,000 clips, often on a network disk.
    file_names = {entry.name for entry in os.scandir(audio_dir)}

    def to_question(row_number: int, row: Any) -> Question:
        choices = choices_field(row, "multi_choice")
        video_name = text_field(row, "video_name")
        return Question(
            id=id_field(row),
            text=text_field(row, "question_text"),
            ground_truth=choice_at("answer", present_field(row, "answer"), choices),
            choices=choices,
            audio=(AudioRef(str(audio_dir / _find_clip(video_name, file_names, audio_dir))),),
            kind=str(row.get("question_type") or ""),
            source=f"{config.path} row {row_number}",
            metadata={key: row[key] for key in ("video_name", "video_id", "question_relation") if key in row},
        )

    return collect(enumerate(rows, start=1), to_question, source=config.path, max_questions=config.max_questions)


def _read_array(path: str) -> list[Any]:
    try:
        rows = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path} line {error.lineno} column {error.colno}: is not JSON ({error.msg}); fix or fetch it again"
        ) from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: expected a JSON array of questions, got {type(rows).__name__}; is it AVQA's file?")
    return rows


def clip_stems(video_name: str) -> list[str]:
    """File names, without suffix, under which a video's clip may lie.

    `-HG3Omg_89c_000030` is AVQA's own name; R1-AQA names the same clip `-HG3Omg_89c_30`.
    """
    stems = [video_name]
    if match := re.fullmatch(r"(.+)_(\d+)", video_name):
        short = f"{match[1]}_{int(match[2])}"
        if short != video_name:
            stems.append(short)
    return stems


def _find_clip(video_name: str, file_names: set[str], audio_dir: Path) -> str:
    stems = clip_stems(video_name)
    for suffix in CLIP_SUFFIXES:
        for stem in stems:
            if stem + suffix in file_names:
                return stem + suffix
    names = " or ".join(stems)
    raise RowError(
        "video_name", f"no clip named {names} (.wav, .mp4 or another of {len(CLIP_SUFFIXES)}) in {audio_dir}"
    )
