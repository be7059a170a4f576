"""Advantages of one step, from the rewards and (if it is part of the reward) the KL penalty.

A new baseline or scale belongs in `group_advantages` if it needs one group, in `batch_statistics.py` if it needs the
batch.

Shapes: _G the responses of a group, _K its reward functions, _T the tokens of a response, _N all values of the step.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.algorithm.batch_statistics import batch_reward_std, normalised
from ssr1_rl.algorithm.variance import has_no_variance
from ssr1_rl.config.sections.grpo import GrpoConfig


@dataclass(frozen=True)
class RewardPart:
    """The rewards of one reward function in one group, unweighted; NaN where it does not apply."""

    weight: float
    rewards_G: Sequence[float]


@dataclass(frozen=True)
class GroupAdvantages:
    """The advantages of one group. Tokens of a response differ only with `kl_placement: reward_to_go`."""

    advantages_G: tuple[float, ...]  # one per response; the mean if its tokens differ
    token_advantages: tuple[tuple[float, ...], ...] = ()  # [G][T] if they differ; else empty


def step_advantages(
    rewards: Sequence[Sequence[float]],
    num_tokens: Sequence[Sequence[int]],
    grpo: GrpoConfig,
    kl: Sequence[Sequence[Sequence[float]]] = (),
    kl_coefficient: float = 0.0,
    parts: Sequence[Sequence[RewardPart]] = (),
) -> list[GroupAdvantages]:
    """Computes the advantages of a step's groups: the KL penalty if any, then baseline and scale of group and batch.

    With kl_placement `reward`, the KL of the whole response is subtracted from its reward:
    r_i - kl_coefficient sum_t KL_t (RLOO, arXiv 2402.14740). With `reward_to_go`, the KL from a token to the end is
    subtracted from that token's return: A_i - kl_coefficient sum_{s >= t} KL_s (REINFORCE++, arXiv 2501.03262).

    Args:
        rewards: [groups][G] one per response, the weighted sum over the reward functions.
        num_tokens: [groups][G] tokens of each response in the loss; see `batch_statistics.py`.
        kl: [groups][G][T] the KL penalty of every token; empty if KL is not part of the reward.
        parts: [groups][K] what `rewards` is the sum of; needed for `normalize_each_reward`.
    """
    to_go = bool(kl) and grpo.kl_placement == "reward_to_go"
    if kl and not to_go:
        rewards = [
            [reward - kl_coefficient * sum(kl_T) for reward, kl_T in zip(rewards_G, kl_G, strict=True)]
            for rewards_G, kl_G in zip(rewards, kl, strict=True)
        ]
    if grpo.normalize_each_reward:
        groups = [_sum_of_advantages(of_group, grpo) for of_group in parts]
        assert len(groups) == len(rewards), "every group has its parts"
    else:
        groups = [group_advantages(rewards_G, grpo) for rewards_G in rewards]
    if grpo.advantage_scale == "batch_reward_std":
        groups = _divided(groups, batch_reward_std(rewards, num_tokens, grpo), grpo)
    if not to_go:
        return _of_responses(groups, num_tokens, grpo)
    returns = [
        [reward - kl_coefficient * np.cumsum(kl_T[::-1])[::-1] for reward, kl_T in zip(group, kl_G, strict=True)]
        for group, kl_G in zip(groups, kl, strict=True)
    ]
    return _of_tokens(returns, num_tokens, grpo)


def group_advantages(rewards_G: Sequence[float], grpo: GrpoConfig) -> tuple[float, ...]:
    """Advantages relative to the group: (r_i - b_i) / (std r + epsilon).

    The baseline b_i is the group's mean (`group_mean`: DeepSeekMath, arXiv 2402.03300, section 4.1.2) or the mean of
    the other responses' rewards (`leave_one_out`: RLOO, arXiv 2402.14740). std r is that of a sample (divisor G - 1, as
    in the reference implementations); only `advantage_scale: group_std` divides by it. Equal rewards give exactly 0.
    Other baselines leave the rewards unchanged.

    Raises:
        ValueError: fewer than two rewards.
    """
    if len(rewards_G) < 2:
        raise ValueError(f"a group needs at least 2 rewards for relative advantages, got {len(rewards_G)}")
    if grpo.baseline not in ("group_mean", "leave_one_out"):
        return tuple(rewards_G)
    if has_no_variance(rewards_G):
        return (0.0,) * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    # r_i - (sum r - r_i) / (G - 1) = (r_i - mean r) G / (G - 1)
    factor = len(rewards_G) / (len(rewards_G) - 1) if grpo.baseline == "leave_one_out" else 1.0
    scale = statistics.stdev(rewards_G) + grpo.advantage_epsilon if grpo.advantage_scale == "group_std" else 1.0
    return tuple((reward - mean) * factor / scale for reward in rewards_G)


def _sum_of_advantages(parts_K: Sequence[RewardPart], grpo: GrpoConfig) -> tuple[float, ...]:
    """sum_k weight_k (r_ik - b_ik) / (std r_k + epsilon): each reward function by itself (GDPO, arXiv 2601.05242).

    So no reward's scale or rarity decides how much the others count. A reward function adds 0 to the responses to which
    it does not apply, and its statistics are over the others.
    """
    sums_G = [0.0] * len(parts_K[0].rewards_G)
    for part in parts_K:
        applies = [index for index, reward in enumerate(part.rewards_G) if not math.isnan(reward)]
        if len(applies) < 2:
            continue
        advantages = group_advantages([part.rewards_G[index] for index in applies], grpo)
        for index, advantage in zip(applies, advantages, strict=True):
            sums_G[index] += part.weight * advantage
    return tuple(sums_G)


def _divided(groups: Sequence[Sequence[float]], std: float, grpo: GrpoConfig) -> list[tuple[float, ...]]:
    """The advantages over std + epsilon; 0 if all rewards of the batch are equal (std is 0)."""
    factor = 1.0 / (std + grpo.advantage_epsilon) if std else 0.0
    return [tuple(value * factor for value in group) for group in groups]


def _of_responses(
    groups: Sequence[Sequence[float]], num_tokens: Sequence[Sequence[int]], grpo: GrpoConfig
) -> list[GroupAdvantages]:
    values_N = np.array([value for group in groups for value in group])
    counts_N = np.array([count for counts_G in num_tokens for count in counts_G])
    weights_N = counts_N if grpo.batch_statistics == "tokens" else counts_N > 0
    found = iter(normalised(values_N, weights_N.astype(float), grpo).tolist())
    return [GroupAdvantages(tuple(next(found) for _ in group)) for group in groups]


def _of_tokens(
    returns: Sequence[Sequence[np.ndarray]], num_tokens: Sequence[Sequence[int]], grpo: GrpoConfig
) -> list[GroupAdvantages]:
    flat = [returns_T for group in returns for returns_T in group]
    lengths = [len(returns_T) for returns_T in flat]
    carries_loss = [float(count > 0) for counts_G in num_tokens for count in counts_G]
    if grpo.batch_statistics == "responses":
        carries_loss = [value / max(1, length) for value, length in zip(carries_loss, lengths, strict=True)]
    values_N = np.concatenate(flat)
    found_N = normalised(values_N, np.repeat(carries_loss, lengths), grpo)
    tokens = iter(np.split(found_N, np.cumsum(lengths)[:-1]))
    found = []
    for group in returns:
        token_advantages = tuple(tuple(next(tokens).tolist()) for _ in group)
        means = tuple(statistics.fmean(values) if values else 0.0 for values in token_advantages)
        found.append(GroupAdvantages(means, token_advantages))
    return found
