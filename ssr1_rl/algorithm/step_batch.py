"""Builds the batch of a step from its scored groups: shapes rewards, computes advantages, masks responses."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ssr1_rl.algorithm.advantage import RewardPart, step_advantages
from ssr1_rl.algorithm.overlong import carries_loss, penalty_of
from ssr1_rl.algorithm.usable import usable_tokens
from ssr1_rl.algorithm.variance import number_or_nan
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
    reward_weights: Mapping[str, float] | None = None,
) -> list[TrainGroup]:
    """Computes the advantages of a step's groups.

    Args:
        kl: empty if KL is not part of the reward.
        reward_weights: `rewards[].weight` by the reward function's name; 1 for those that are not in it.
    """
    penalties = [[penalty_of(c, max_response_tokens, grpo) for c in s.group.completions] for s in scored]
    rewards = [
        [reward + grpo.overlong_penalty * penalty for reward, penalty in zip(s.rewards_G, penalties_G, strict=True)]
        for s, penalties_G in zip(scored, penalties, strict=True)
    ]
    parts = [_parts(s, p, grpo, reward_weights or {}) for s, p in zip(scored, penalties, strict=True)]
    counts = [num_loss_tokens(group) for group in groups]
    found = step_advantages(rewards, counts, grpo, kl, kl_coefficient, parts)
    return [
        replace(group, advantages_G=of_group.advantages_G, token_advantages=of_group.token_advantages)
        for group, of_group in zip(groups, found, strict=True)
    ]


def _parts(
    scored: ScoredGroup, penalties_G: Sequence[float], grpo: GrpoConfig, weights: Mapping[str, float]
) -> list[RewardPart]:
    """The reward functions of a group, and the penalty for length as one more, whose weight is its factor."""
    of_functions = [
        RewardPart(weights.get(name, 1.0), [number_or_nan(reward) for reward in rewards_G])
        for name, rewards_G in scored.breakdown.items()
    ]
    return [*of_functions, RewardPart(grpo.overlong_penalty, penalties_G)]


def num_loss_tokens(group: TrainGroup) -> list[int]:
    """[G] tokens of each response that are in the loss: 0 if the response is masked."""
    mask_G = group.loss_mask_G or (True,) * len(group.responses)
    return [
        (len(response) - usable_tokens(logprobs).count(False)) * in_loss
        for response, logprobs, in_loss in zip(group.responses, group.rollout_logprobs, mask_G, strict=True)
    ]


def num_unusable_tokens(scored: Sequence[ScoredGroup]) -> int:
    """Tokens whose log-prob from the engine is not usable."""
    return sum(usable_tokens(completion.logprobs).count(False) for s in scored for completion in s.group.completions)


def nothing_in_loss(step: int, grpo: GrpoConfig) -> str:
    """A sentence for a step that trained on no token."""
    masks = grpo.overlong in ("mask", "mask_and_penalty")
    fix = (
        f" (grpo.overlong={grpo.overlong} masks those at the limit): raise rollout.max_response_tokens" if masks else ""
    )
    return f"step {step}: no response is in the loss, so the step teaches nothing{fix}"


def mean_kl(kl: Sequence[GroupKl]) -> float:
    """The mean KL over all tokens of a step; 0 without tokens."""
    values = [value for kl_G in kl for kl_T in kl_G for value in kl_T]
    return statistics.fmean(values) if values else 0.0
