"""Builds the batch of a step from its scored groups: shapes rewards, computes advantages, masks responses."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from ssr1_rl.algorithm.advantage import step_advantages
from ssr1_rl.algorithm.overlong import carries_loss, shaped_reward
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import PreparedQuestion, ScoredGroup, TrainGroup

GroupKl = Sequence[Sequence[float]]
"""[G][T] KL estimates of one group, one for each token of each response."""


def train_group(scored: ScoredGroup, prepared: PreparedQuestion, grpo: GrpoConfig) -> TrainGroup:
    """Converts a scored group into what the learners need. Its advantages are 0; `with_advantages` computes them."""
    completions = scored.group.completions
    return TrainGroup(
        id=scored.group.id,
        prompt_token_ids=prepared.token_ids,
        waveforms=prepared.waveforms,
        responses=tuple(c.token_ids for c in completions),
        rollout_logprobs=tuple(c.logprobs for c in completions),
        advantages_G=(0.0,) * len(completions),
        submitted_version=scored.group.submitted_version,
        loss_mask_G=tuple(carries_loss(completion, grpo) for completion in completions),
        num_audio_tokens=prepared.num_audio_tokens,
    )


def with_advantages(
    groups: Sequence[TrainGroup],
    scored: Sequence[ScoredGroup],
    grpo: GrpoConfig,
    max_response_tokens: int,
    kl: Sequence[GroupKl] = (),
    kl_coefficient: float = 0.0,
) -> list[TrainGroup]:
    """Computes the advantages of a step's groups. `kl` is empty if KL is not part of the reward."""
    rewards = [
        [
            shaped_reward(reward, completion, max_response_tokens, grpo)
            for reward, completion in zip(s.rewards_G, s.group.completions, strict=True)
        ]
        for s in scored
    ]
    found = step_advantages(rewards, [num_loss_tokens(group) for group in groups], grpo, kl, kl_coefficient)
    return [
        replace(group, advantages_G=of_group.advantages_G, token_advantages=of_group.token_advantages)
        for group, of_group in zip(groups, found, strict=True)
    ]


def num_loss_tokens(group: TrainGroup) -> list[int]:
    """[G] tokens of each response that are in the loss: 0 if the response is masked."""
    mask_G = group.loss_mask_G or (True,) * len(group.responses)
    return [len(response) * in_loss for response, in_loss in zip(group.responses, mask_G, strict=True)]


def mean_kl(kl: Sequence[GroupKl]) -> float:
    """The mean KL over all tokens of a step; 0 without tokens."""
    values = [value for kl_G in kl for kl_T in kl_G for value in kl_T]
    return statistics.fmean(values) if values else 0.0
