"""The questions of a split -> rows, and each row -> the request that a model gets. Labels do not travel with them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.evaluation import EvaluationConfig
from ssr1_rl.data.audio import as_clip
from ssr1_rl.data.example import waveforms_of
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.inference.request import Request, Row
from ssr1_rl.types import GREEDY as GREEDILY
from ssr1_rl.types import AudioRef, Distribution, Question

GREEDY_SAMPLE = -1
"""Stands for the greedy response where samples are counted from 0."""


def rows_of(split: str, questions: Sequence[Question], config: EvaluationConfig, run_seed: int) -> Iterator[Row]:
    """One row for each response: a question's greedy one, then its samples, each with a seed of its own."""
    for question in questions:
        shared = {
            "id": question.id,
            "text": question.text,
            "choices": list(question.choices),
            "audio": [ref.path for ref in question.audio],
            "source": question.source,
        }
        for sample in range(GREEDY_SAMPLE, config.num_samples):
            is_greedy = sample == GREEDY_SAMPLE
            key = key_of(split, question.id, sample)
            yield shared | {
                "key": key,
                "temperature": 0.0 if is_greedy else config.temperature,
                "top_p": 1.0 if is_greedy else config.top_p,
                "seed": 0 if is_greedy else seed_of(run_seed, key),
            }


def key_of(split: str, question_id: str, sample: int) -> str:
    """The key of one response's row among those of a model."""
    return f"{split}/{'greedy' if sample == GREEDY_SAMPLE else sample}/{question_id}"


def seed_of(run_seed: int, key: str) -> int:
    """A sample's seed in [0, 2^62); it depends on nothing but the run's seed, the split, the question and the count."""
    digest = hashlib.blake2b(f"{run_seed}/{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 2


@dataclass
class AskQuestion:
    """Makes requests with the prompts of training. It is pickled to worker processes, which load the tokenizer."""

    model_path: str
    data: DataConfig
    max_response_tokens: int
    _newest: tuple[tuple[str, ...], list[np.ndarray]] = field(default=((), []), init=False, repr=False)

    def __call__(self, row: Row) -> Request:
        """The request of a row.

        Raises:
            AudioError, PromptTooLong: the question cannot be used.
        """
        question = _question(row)
        waveforms = self._waveforms(question)
        clips, lengths = [as_clip(waveform) for waveform in waveforms], [len(waveform) for waveform in waveforms]
        prepared = _builder(self.model_path, pickle.dumps(self.data)).prepare(question, clips, lengths)
        temperature, top_p, seed = row["temperature"], row["top_p"], row["seed"]
        assert isinstance(temperature, float) and isinstance(top_p, float) and isinstance(seed, int), (
            "as rows_of writes"
        )
        return Request(
            token_ids=prepared.token_ids,
            waveforms=tuple(waveforms),
            max_response_tokens=self.max_response_tokens,
            distribution=Distribution(temperature, top_p) if temperature else GREEDILY,
            seed=seed,
        )

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_newest": ((), [])}

    def _waveforms(self, question: Question) -> list[np.ndarray]:
        """The question's clips; those of the question before are kept, because its samples follow each other."""
        paths = tuple(ref.path for ref in question.audio)
        if self._newest[0] != paths:
            self._newest = paths, waveforms_of(question, self.data)
        return self._newest[1]


@lru_cache(maxsize=1)
def _builder(model_path: str, data: bytes) -> PromptBuilder:
    """Loaded once in a process, which gets a new `AskQuestion` for every batch of rows. `data` is a `DataConfig`."""
    return PromptBuilder(model_path, pickle.loads(data))


def _question(row: Row) -> Question:
    choices, audio = row["choices"], row["audio"]
    assert isinstance(choices, Sequence | np.ndarray) and isinstance(audio, Sequence | np.ndarray), "as rows_of writes"
    return Question(
        id=str(row["id"]),
        text=str(row["text"]),
        ground_truth="",
        choices=tuple(map(str, choices)),
        audio=tuple(AudioRef(str(path)) for path in audio),
        source=str(row["source"]),
    )
