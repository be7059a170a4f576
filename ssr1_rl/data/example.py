"""One question as the model gets it, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import as_clip, load_waveform
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.types import SAMPLE_RATE, Question


@dataclass(frozen=True)
class Example:
    """One question of a split as the model gets it."""

    question: Question
    prompt: str  # the rendered text, with one placeholder per clip
    num_tokens: int  # audio tokens included
    num_audio_tokens: int
    audio_s: float

    def __str__(self) -> str:
        audio = f", {self.num_audio_tokens} of them for {self.audio_s:.2f} s of audio" if self.question.audio else ""
        return f"{self.question.source}, id {self.question.id}: {self.num_tokens} tokens{audio}"


def example_of(question: Question, builder: PromptBuilder, data: DataConfig) -> Example:
    """Decodes the clips and builds the prompt.

    Raises:
        AudioError, PromptTooLong: the question cannot be used.
        UserError: it has audio, and the model takes none.
    """
    waveforms = waveforms_of(question, data)
    lengths = [len(waveform) for waveform in waveforms]
    prepared = builder.prepare(question, list(map(as_clip, waveforms)), lengths)
    num_audio = sum(prepared.num_audio_tokens)
    num_tokens = len(prepared.token_ids) - len(prepared.num_audio_tokens) + num_audio
    text = builder.tokenizer.decode(list(prepared.token_ids))
    assert isinstance(text, str), "one prompt is one text"
    return Example(question, text, num_tokens, num_audio, sum(lengths) / SAMPLE_RATE)


def waveforms_of(question: Question, data: DataConfig) -> list[np.ndarray]:
    """The clips of a question, decoded as the settings say."""
    return [
        load_waveform(
            ref, max_audio_s=data.max_audio_s, long_audio=data.long_audio, truncated_audio=data.truncated_audio
        )
        for ref in question.audio
    ]
