"""The nouns of the system, in the order in which one question meets them.

Question -> PreparedQuestion -> Completion -> RolloutGroup -> ScoredGroup -> TrainGroup.
Nothing here imports torch, Ray or vLLM, so every stage (and a user's reward
function) can use these types without loading them.
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

Clip: TypeAlias = "ObjectRef[np.ndarray] | np.ndarray"
"""A waveform, float32 [num_samples] at `SAMPLE_RATE`: a reference to it in the object store, or the array itself."""


@dataclass(frozen=True)
class AudioRef:
    """The file of one clip. `ssr1_rl.data.audio.load_waveform` decodes it."""

    path: str


@dataclass(frozen=True)
class Question:
    """One row of a data set of any format.

    `choices` is empty for an open question. `ground_truth` is the text of the answer,
    never its letter or index. `source` is the file and the row, for error messages.
    """

    id: str
    text: str
    ground_truth: str
    choices: tuple[str, ...] = ()
    audio: tuple[AudioRef, ...] = ()
    kind: str = ""
    source: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedQuestion:
    """A question as the model reads it.

    Attributes:
        token_ids: the prompt, with exactly one audio placeholder per clip. vLLM expands each
            placeholder itself; the learner does it with `ssr1_rl.data.prompt.expand_audio_placeholders`.
        waveforms: the question's clips.
        num_audio_tokens: how many tokens the audio tower makes of each clip.
    """

    question: Question
    token_ids: tuple[int, ...]
    waveforms: tuple[Clip, ...] = ()
    num_audio_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class GroupId:
    """Identifies one group of responses in a run, also after a resume.

    `attempt` rises each time that the question has to be generated again in the same
    epoch (because its worker died or its rewards failed).
    """

    epoch: int
    question_id: str
    attempt: int = 0

    def __str__(self) -> str:
        return f"epoch {self.epoch} question {self.question_id} attempt {self.attempt}"


@dataclass(frozen=True)
class VersionSpan:
    """Output tokens [start, end) of a completion were sampled by `policy_version`."""

    policy_version: int
    start: int
    end: int


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    Attributes:
        token_ids: the sampled tokens, the end-of-sequence token included when it was sampled.
        logprobs: natural log-probability of each token under the distribution it
            was sampled from (after temperature and truncation), same length.
        text: the decoded response, special tokens left out.
        finish_reason: "stop" (end of sequence) or "length" (cut at the token limit).
        versions: which policy version sampled which tokens; covers all of them, or is empty if the engine does not say.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish_reason: str
    versions: tuple[VersionSpan, ...] = ()


@dataclass(frozen=True)
class RolloutGroup:
    """The G completions of one question.

    `submitted_version` is the policy version when the engine accepted the group. Tokens of
    later versions may have been sampled with an attention cache that older weights computed in part.
    """

    id: GroupId
    question: Question
    completions: tuple[Completion, ...]
    submitted_version: int = 0


@dataclass(frozen=True)
class ScoredGroup:
    """A group with its rewards.

    Attributes:
        rewards_G: the weighted sum over the reward functions, one per completion.
        breakdown: for each reward function's name its unweighted rewards, one per completion.
    """

    group: RolloutGroup
    rewards_G: tuple[float, ...]
    breakdown: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class TrainGroup:
    """What a learner needs of one group.

    Attributes:
        prompt_token_ids: with one audio placeholder per clip.
        waveforms: the question's clips.
        responses: sampled token ids of each response.
        rollout_logprobs: their log-probabilities as the rollout engine reported them.
        advantages_G: one advantage per response; the mean of `token_advantages`, if there are any.
        submitted_version: as in `RolloutGroup`.
        token_advantages: for each response one advantage per token; empty if all tokens of a response have the same.
        loss_mask_G: whether each response is trained on; empty if all are.
        num_audio_tokens: how many tokens the audio tower makes of each clip.
    """

    id: GroupId
    prompt_token_ids: tuple[int, ...]
    waveforms: tuple[Clip, ...]
    responses: tuple[tuple[int, ...], ...]
    rollout_logprobs: tuple[tuple[float, ...], ...]
    advantages_G: tuple[float, ...]
    submitted_version: int
    token_advantages: tuple[tuple[float, ...], ...] = ()
    loss_mask_G: tuple[bool, ...] = ()
    num_audio_tokens: tuple[int, ...] = ()

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt as the model reads it: the audio tokens of each clip replace its placeholder."""
        return len(self.prompt_token_ids) + sum(self.num_audio_tokens) - len(self.num_audio_tokens)
