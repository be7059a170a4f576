"""The questions that the teacher is asked, and those that are left out because they have no video."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ssr1_rl.config.model_path import check_model_folder, is_here
from ssr1_rl.config.schema import Config
from ssr1_rl.data.frames import VideoError
from ssr1_rl.data.prompt import PromptTooLong
from ssr1_rl.data.splits import read_split
from ssr1_rl.distill.chain_rows import ChainRequest
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.files import write_text
from ssr1_rl.inference.endpoint import check_url, read_key
from ssr1_rl.types import Question

MAX_TRIES = 20
"""Questions that are tried, evenly spread, until one can be used."""

T = TypeVar("T")


@dataclass(frozen=True)
class LeftOut:
    """A row that is not asked."""

    source: str  # its file and row
    reason: str


@dataclass(frozen=True)
class Asked:
    """The questions of a stage."""

    questions: list[Question]  # each with a video
    left_out: list[LeftOut]


@dataclass(frozen=True)
class Example:
    """One question as the teacher gets it."""

    question: Question
    sizes: list[tuple[int, int]]  # width and height of each frame
    prompt: str = ""  # empty if it was not built
    num_tokens: int = 0  # of the prompt with one for each frame; 0 if they are not known


def questions_to_ask(config: Config) -> Asked:
    """Reads `data.train`.

    Raises:
        UserError: it cannot be read, or more of its questions than `data.max_skipped_share` allows have no video.
    """
    split = with_setup(config, lambda: read_split(config.data.train, "data.train", config.data.max_skipped_share))
    left_out = [LeftOut(f"{row.source} row {row.row}", f"{row.field}: {row.reason}") for row in split.skipped]
    without = [question for question in split.questions if question.video is None]
    left_out += [LeftOut(question.source or f"question {question.id}", "has no video") for question in without]
    num, num_rows = len(without), len(split.questions) + len(split.skipped)
    if num == len(split.questions):
        raise UserError(
            f"data.train: none of {num:,} questions of {split.dataset.path} has a video, and the teacher sees videos; "
            "set data.train.video_dir to their folder"
        )
    if num and len(left_out) > config.data.max_skipped_share * num_rows:
        raise UserError(
            f"data.train: {len(left_out):,} of {num_rows:,} questions have no video or cannot be used, more than "
            f"data.max_skipped_share={config.data.max_skipped_share:g}; {left_out[-1].source} for example: "
            f"{left_out[-1].reason}. Add the videos, or raise data.max_skipped_share"
        )
    return Asked([question for question in split.questions if question.video is not None], left_out)


def example_of(questions: Sequence[Question], config: Config, has_model: bool = True) -> Example:
    """The first question that can be used, of up to `MAX_TRIES` evenly spread over all.

    Args:
        questions: those to ask.
        config: the settings.
        has_model: whether a prompt is built, for which files of the model may be downloaded.

    Raises:
        UserError: the model's prompt cannot be built, the server's address or key cannot be used, or none of the tried
            questions can.
    """
    teacher = config.teacher
    if teacher.endpoint.url:
        check_url(teacher.endpoint)
        read_key(teacher.endpoint)
    else:
        with_setup(config, lambda: check_model_folder(teacher.model, "teacher.model"))
    maker = ChainRequest(teacher, config.data)
    tried = questions[:: -(-len(questions) // MAX_TRIES)]
    failed: list[str] = []
    for question in tried:
        try:
            frames = maker.frames(question)
            sizes = [(frame.shape[1], frame.shape[0]) for frame in frames]
            if not has_model:
                return Example(question, sizes)
            num_tokens = len(maker.prompt.request(question, frames).token_ids)
            return Example(question, sizes, maker.prompt.text(question, len(frames)), num_tokens)
        except (VideoError, PromptTooLong) as error:
            failed.append(str(error))
    raise UserError(
        f"none of {len(tried)} questions that were tried can be used, of {len(questions):,} in data.train; the first: "
        f"{failed[0]}"
    )


def is_teacher_here(config: Config) -> bool:
    """Whether a prompt can be built without a download."""
    return bool(config.teacher.endpoint.url) or is_here(config.teacher.model)


def write_left_out(path: Path, left_out: Sequence[LeftOut]) -> None:
    """Lists the rows in JSON lines."""
    rows = [json.dumps({"source": row.source, "reason": row.reason}) for row in left_out]
    write_text(path, "".join(f"{row}\n" for row in rows))


def with_setup(config: Config, read: Callable[[], T]) -> T:
    """Calls `read`; the error about a missing file tells how to get it, if `run.setup` does."""
    try:
        return read()
    except MissingFile as error:
        if not config.run.setup:
            raise
        raise MissingFile(f"{error}. To get it: {config.run.setup}") from None
