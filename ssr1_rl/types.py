"""The data types of the system, in the order in which one question passes through them.

Question -> PreparedQuestion -> Completion -> RolloutGroup -> ScoredGroup -> TrainGroup.
Nothing here imports torch, Ray or vLLM, so a user's reward function can use these types without loading them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from ray import ObjectRef

SAMPLE_RATE = 16_000
"""Samples per second of every waveform inside the system (mono, float32)."""

TokenValues: TypeAlias = tuple[tuple[float, ...], ...]
"""[G][T] a number for each token of each response of one group."""

Waveform: TypeAlias = "ObjectRef[np.ndarray] | np.ndarray"
"""Float32 [num_samples] at `SAMPLE_RATE`: a reference to it in the object store, or the array itself."""


@dataclass(frozen=True)
class AudioRef:
    """The file of one clip. `ssr1_rl.data.audio.load_waveform` decodes it."""

    path: str


@dataclass(frozen=True)
class VideoRef:
    """The silent video of a question, for a teacher that sees. `ssr1_rl.data.frames` samples frames of it."""

    path: str = ""  # a video file; empty if there are stills
    stills: tuple[str, ...] = ()  # image files, in order


@dataclass(frozen=True)
class Clip:
    """A decoded clip on its way to engines and learners; for a model that sees, an image takes its place."""

    key: str  # the digest of its samples, by which caches know the clip when its reference is another one
    waveform: Waveform = field(compare=False, repr=False)  # of an image its pixels, uint8 [height, width, 3]


@dataclass(frozen=True)
class Question:
    """One row of a data set of any format."""

    id: str
    text: str
    ground_truth: str  # the text of the answer, never its letter or index
    choices: tuple[str, ...] = ()  # empty for an open question
    audio: tuple[AudioRef, ...] = ()
    kind: str = ""
    source: str = ""  # the file and the row, for error messages
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)  # the row's further columns
    video: VideoRef | None = None  # what a teacher sees


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as the model reads it.

    vLLM expands audio placeholders itself; the learner does it with `ssr1_rl.data.prompt.expand_audio_placeholders`.
    """

    question: Question
    token_ids: tuple[int, ...]  # the prompt, with exactly one audio placeholder per clip
    waveforms: tuple[Clip, ...] = ()
    num_audio_tokens: tuple[int, ...] = ()  # of each clip, as the model's tower makes them


VALIDATION = -1
"""Stands for the epoch in the id of a validation question's response."""
PROBE = -2
"""Stands for the epoch in the id of a response that is only compared with the learner; see `ssr1_rl.probe`."""


@dataclass(frozen=True)
class GroupId:
    """Identifies one group of responses in a run, also after a resume."""

    epoch: int
    question_id: str
    attempt: int = 0  # rises when a resume generates the question again in its epoch

    def __str__(self) -> str:
        if self.epoch == VALIDATION:
            return f"validation question {self.question_id}"
        if self.epoch == PROBE:
            return f"the check of weight sync {self.question_id}"
        return f"epoch {self.epoch} question {self.question_id} attempt {self.attempt}"


@dataclass(frozen=True)
class VersionSpan:
    """Output tokens [start, end) of a completion were sampled by `policy_version`."""

    policy_version: int
    start: int
    end: int


@dataclass(frozen=True)
class Distribution:
    """How logits become the distribution that tokens are sampled from; engine and learner compute the same one.

    The order is vLLM's: the logits are divided by the temperature; min_p, then top_k, then top_p drop tokens; what is
    left is normalised. The defaults drop nothing.
    """

    temperature: float = 1.0  # 0 is greedy decoding, which only engines do
    top_p: float = 1.0  # keeps the likeliest tokens until their probabilities add up to top_p
    top_k: int = 0  # keeps the top_k likeliest tokens; 0 keeps all
    min_p: float = 0.0  # keeps tokens whose probability is at least min_p times the largest

    @property
    def drops_tokens(self) -> bool:
        """Whether some tokens of the vocabulary get the probability 0."""
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


SOFTMAX = Distribution()
"""The model's own distribution: temperature 1 and every token."""
GREEDY = Distribution(temperature=0.0)
"""The likeliest token."""


@dataclass(frozen=True)
class Completion:
    """One sampled response."""

    token_ids: tuple[int, ...]  # including the end-of-sequence token if it was sampled
    logprobs: tuple[float, ...]  # natural logarithm, under the distribution that each token was sampled from
    text: str  # decoded, without the tokens that end or pad it; other special tokens are spelled out
    finish_reason: str  # "stop" (end of sequence, or a stop string) or "length" (cut at the token limit)
    versions: tuple[VersionSpan, ...] = ()  # cover all tokens, or are empty if the engine does not give versions
    prefill: str = ""  # the tags at the end of the prompt, such as "<think>\n", which the chat template wrote

    @property
    def full_text(self) -> str:
        """The response with the tags that the prompt has opened for it: `text` after `prefill`."""
        return self.prefill + self.text


@dataclass(frozen=True)
class RolloutGroup:
    """The G completions of one question.

    `submitted_version` is the policy version when the engine accepted the group. Tokens of
    later versions may have been sampled with an attention cache that older weights partly computed.
    """

    id: GroupId
    question: Question
    completions: tuple[Completion, ...]
    submitted_version: int = 0
    worker: str = ""  # who generated it, for error messages


@dataclass(frozen=True)
class ScoredGroup:
    """A group with its rewards, one per completion; without completions that no reward function applies to."""

    group: RolloutGroup
    rewards_G: tuple[float, ...]  # the weighted sum over the reward functions
    # Unweighted, by the reward function's name; None for a completion that the function does not apply to.
    breakdown: Mapping[str, tuple[float | None, ...]]
    num_unscored: int = 0  # completions left out because no reward function applies to them


@dataclass(frozen=True)
class TrainGroup:
    """What a learner needs from one group."""

    id: GroupId
    prompt_token_ids: tuple[int, ...]  # with one audio placeholder per clip
    waveforms: tuple[Clip, ...]
    responses: tuple[tuple[int, ...], ...]  # sampled token ids
    rollout_logprobs: tuple[tuple[float, ...], ...]  # of these tokens, as the rollout engine reported them
    advantages_G: tuple[float, ...]  # one per response; the mean of its token_advantages, if there are any
    submitted_version: int  # as in RolloutGroup
    token_advantages: tuple[tuple[float, ...], ...] = ()  # empty if all tokens of a response have the same
    loss_mask_G: tuple[bool, ...] = ()  # whether each response is trained on; empty if all are
    num_audio_tokens: tuple[int, ...] = ()  # as in PreparedQuestion

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt as the model reads it: the audio tokens of each clip replace its placeholder."""
        return len(self.prompt_token_ids) + sum(self.num_audio_tokens) - len(self.num_audio_tokens)
