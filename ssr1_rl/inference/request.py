"""What is asked of a model for one row, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np

from ssr1_rl.types import GREEDY, Distribution

Row: TypeAlias = Mapping[str, object]
"""What a request is made of, in plain values that Arrow holds; `key` (a text) is unique among the rows of a stage."""


@dataclass(frozen=True)
class Request:
    """One prompt and how to answer it with one response."""

    token_ids: tuple[int, ...] = ()  # the prompt for an engine, with one placeholder per clip and image
    waveforms: tuple[np.ndarray, ...] = ()  # float32 [num_samples] at 16 kHz, in the order of their placeholders
    images: tuple[np.ndarray, ...] = ()  # uint8 [height, width, 3], in the order of their placeholders
    # The same prompt for an endpoint, in OpenAI's format. A part {"type": "image"} or {"type": "audio"} stands for the
    # next of the images or waveforms.
    messages: tuple[Mapping[str, object], ...] = ()
    max_response_tokens: int = 512
    distribution: Distribution = GREEDY
    seed: int = 0
    allowed_token_ids: tuple[int, ...] = ()  # if given, only these tokens are sampled, and their log-probs are returned


@dataclass(frozen=True)
class Answer:
    """What came back for a row; `error` says why there is no text."""

    key: str
    text: str = ""  # as `ssr1_rl.rollout.text.ResponseText` decodes it, without the token that ends it
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    finish_reason: str = ""  # "stop" or "length"
    first_logprobs: Mapping[int, float] = field(default_factory=dict)  # of the first token, if tokens were restricted
    prefill: str = ""  # the tags at the end of the prompt, such as "<think>\n", inside which the text continues
    error: str = ""

    @property
    def full_text(self) -> str:
        """The text with the tags that the prompt has opened for it."""
        return self.prefill + self.text


ToRequest: TypeAlias = Callable[[Row], Request]
"""Makes the request of a row in a worker process, so it must be picklable; `UserError` if the row cannot be used."""


class Backend(Protocol):
    """Answers rows."""

    def answers(self, rows: Sequence[Row], to_request: ToRequest) -> Iterator[list[Answer]]:
        """The rows' answers, a batch at a time as they are ready, in any order; one for each row."""
        ...
