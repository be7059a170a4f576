"""Looks at the questions of a run as the model gets them, before anything starts: is their audio there and readable?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from ssr1_rl.checks.template_options import unread_variables
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.example import Example, example_of, waveforms_of
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.skipped import UNUSABLE
from ssr1_rl.data.splits import Split
from ssr1_rl.errors import UserError
from ssr1_rl.types import Question

MAX_TRIES = 20
"""Questions of a split that are tried, evenly spread over it, until one can be used."""

NUM_SHOWN = 5
"""Rows without a use that are shown of each split."""

Result = TypeVar("Result")


def check_prompts(splits: Iterable[Split], config: Config) -> tuple[list[Example], list[str]]:
    """Checks each split with the model's tokenizer and audio family: one clip is decoded, one prompt built.

    Returns:
        One question of each split, and notes.

    Raises:
        UserError: the model takes audio and a split has none, or no tried question of a split can be used.
    """
    builder = PromptBuilder(config.model.path, config.data)
    notes = unread_variables(config.data.chat_template_kwargs, builder.template) + builder.notes()
    examples: list[Example] = []
    for split in splits:
        if builder.family and config.data.require_audio:
            _has_audio(split, config.model.path)
        example, failed = _first_usable(split, lambda question: example_of(question, builder, config.data))
        examples.append(example)
        notes += [f"{split.setting}: cannot be used: {error}" for error in failed]
    return examples, notes


def check_clips(splits: Iterable[Split], data: DataConfig) -> list[str]:
    """What can be checked without the model: one clip of each split is decoded.

    Returns:
        Notes.

    Raises:
        UserError: no tried clip of a split can be decoded.
    """
    notes: list[str] = []
    for split in splits:
        _, failed = _first_usable(split, lambda question: waveforms_of(question, data))
        notes += [f"{split.setting}: cannot be used: {error}" for error in failed]
    return notes


def notes_on(split: Split) -> list[str]:
    """What was read, for the user: rows that were left out, and a mixture of questions with and without audio."""
    found = [*split.notes, *(f"left out: {row}" for row in split.skipped[:NUM_SHOWN])]
    if len(split.skipped) > NUM_SHOWN:
        found.append(f"… and {len(split.skipped) - NUM_SHOWN:,} more rows of {split.dataset.path}")
    with_audio, num = split.num_with_audio, len(split.questions)
    if 0 < with_audio < num:
        found.append(f"{split.setting}: {with_audio:,} of {num:,} questions have audio ({with_audio / num:.1%})")
    return found


def _has_audio(split: Split, model: str) -> None:
    if split.num_with_audio == 0:
        num = len(split.questions)
        raise UserError(
            f"{split.setting}: 0 of {num:,} questions of {split.dataset.path} have audio, but {model} is an audio "
            "model; give each row its clip (in JSON lines in the field 'audio'), or set data.require_audio=false to "
            "use questions of text alone"
        )


def _first_usable(split: Split, attempt: Callable[[Question], Result]) -> tuple[Result, list[str]]:
    """What `attempt` gives for the first question that it can use, and why it could not use those before."""
    failed: list[str] = []
    questions = _spread(split.questions)
    for question in questions:
        try:
            return attempt(question), failed
        except UNUSABLE as error:
            failed.append(str(error))
    raise UserError(
        f"{split.setting}: none of {len(questions)} questions that were tried can be used, of {len(split.questions):,} "
        f"in {split.dataset.path}; the first: {failed[0]}"
    )


def _spread(questions: Sequence[Question]) -> list[Question]:
    """Up to `MAX_TRIES` questions, evenly spread, those with audio if there are any."""
    with_audio = [question for question in questions if question.audio] or list(questions)
    step = math.ceil(len(with_audio) / MAX_TRIES)
    return with_audio[::step]
