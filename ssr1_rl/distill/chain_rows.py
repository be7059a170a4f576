"""Questions -> rows, one for each chain that the teacher is asked for; a row -> its request, in a worker process."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import cast

import numpy as np

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.frames import load_frames
from ssr1_rl.distill.generation.vision_prompt import VisionPrompt, vision_prompt
from ssr1_rl.inference.depends_on import model_files, with_digest
from ssr1_rl.inference.request import Request, Row
from ssr1_rl.types import Distribution, Question, VideoRef

VERSION = 1
"""Rises when the code makes other requests of the same rows and settings."""


def rows_of(questions: Sequence[Question], num_chains: int, seed: int) -> list[Row]:
    """A row for each chain, those of a question together; each samples with a seed of its own.

    The label is not in a row: the teacher does not see it.
    """
    return [row for question in questions for row in _rows(question, num_chains, seed)]


def chain_key(question_id: str, chain: int) -> str:
    """The key of a chain's row."""
    return f"{question_id}/{chain}"


class ChainRequest:
    """Makes the request of a row. The prompt's tokenizer is loaded where it is first needed."""

    def __init__(self, teacher: TeacherConfig, data: DataConfig) -> None:
        self._teacher, self._data = teacher, data

    def __call__(self, row: Row) -> Request:
        """The request of a row.

        Raises:
            VideoError: its video cannot be used.
            PromptTooLong: its prompt is too long.
        """
        question = question_of(row)
        request = self.prompt.request(question, self.frames(question))
        teacher = self._teacher
        return dataclasses.replace(
            request,
            max_response_tokens=teacher.max_response_tokens,
            distribution=Distribution(temperature=teacher.temperature, top_p=teacher.top_p),
            seed=cast("int", row["seed"]),
        )

    def frames(self, question: Question) -> tuple[np.ndarray, ...]:
        """Frames of the question's video."""
        assert question.video is not None, "rows are made of questions with a video"
        teacher = self._teacher
        return _frames(question.video, teacher.frames_per_s, teacher.max_frames, teacher.frame_size)

    @cached_property
    def prompt(self) -> VisionPrompt:
        """Builds the prompts."""
        return vision_prompt(self._teacher, self._data)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "prompt"}


def question_of(row: Row) -> Question:
    """What a row says of its question."""
    stills, choices = cast("list[str]", row["stills"]), cast("list[str]", row["choices"])
    return Question(
        id=str(row["question_id"]),
        text=str(row["text"]),
        ground_truth="",
        choices=tuple(choices),
        video=VideoRef(str(row["video"]), tuple(stills)),
    )


def fingerprint(teacher: TeacherConfig, data: DataConfig, seed: int) -> dict[str, object]:
    """What answers depend on beside their rows, in values that JSON holds.

    What only decides which chains are kept is not in it.
    """
    names = (
        *("model", "dtype", "frames_per_s", "max_frames", "frame_size", "system_prompt", "instruction"),
        *("temperature", "top_p", "max_prompt_tokens", "max_response_tokens"),
    )
    return with_digest(
        {
            "version": VERSION,
            **{f"teacher.{name}": getattr(teacher, name) for name in names},
            "model_files": "" if teacher.endpoint.url else model_files(teacher.model),
            "teacher.engines.engine_args": teacher.engines.engine_args,
            "teacher.endpoint.url": teacher.endpoint.url,
            "data.replace_video_by_audio": data.replace_video_by_audio,
            "run.seed": seed,
        },
        unreadable=teacher.endpoint.request_fields,  # may hold a secret
    )


def _rows(question: Question, num_chains: int, seed: int) -> Iterator[Row]:
    video = question.video
    assert video is not None, "only questions with a video are asked"
    for chain in range(num_chains):
        yield {
            "key": chain_key(question.id, chain),
            "question_id": question.id,
            "text": question.text,
            "choices": list(question.choices),
            "video": video.path,
            "stills": list(video.stills),
            "seed": _seed(seed, question.id, chain),
        }


def _seed(*parts: object) -> int:
    """A seed of a chain's own, the same in every run with the same `run.seed`."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@lru_cache(maxsize=8)
def _frames(video: VideoRef, frames_per_s: float, max_frames: int, frame_size: int) -> tuple[np.ndarray, ...]:
    """Decoded once for all chains of a question, which stand together; a server is asked about several at a time."""
    return tuple(load_frames(video, frames_per_s=frames_per_s, max_frames=max_frames, frame_size=frame_size))
