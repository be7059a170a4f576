"""Advantages of one step, from the rewards and (if it is part of the reward) the KL penalty.

A new baseline or scale belongs in `group_advantages` if it needs one group, in `_normalised` if it needs the batch.

Shapes: _G the responses of a group, _T the tokens of a response, _N all values of the step.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.config.sections.grpo import GrpoConfig

ZERO_VARIANCE = 1e-6
"""Rewards of a group that differ by no more than this, relative to their size, count as equal.

The floating-point standard deviation of equal rewards is not exactly 0; without a tolerance such a group would get
advantages of about 1e-3 instead of 0.
"""


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
) -> list[GroupAdvantages]:
    """Computes the advantages of a step's groups: the KL penalty if any, then baseline and scale of group and batch.

    With kl_placement `reward`, the KL of the whole response is subtracted from its reward:
    r_i - kl_coefficient sum_t KL_t (RLOO, arXiv 2402.14740). With `reward_to_go`, the KL from a token to the end is
    subtracted from that token's return: A_i - kl_coefficient sum_{s >= t} KL_s (REINFORCE++, arXiv 2501.03262).

    Args:
        rewards: [groups][G] one per response.
        num_tokens: [groups][G] tokens of each response in the loss. Batch statistics are weighted by them
            (REINFORCE++), so they are over tokens, not over responses.
        kl: [groups][G][T] the KL penalty of every token; empty if KL is not part of the reward.
    """
    to_go = bool(kl) and grpo.kl_placement == "reward_to_go"
    if kl and not to_go:
        rewards = [
            [reward - kl_coefficient * sum(kl_T) for reward, kl_T in zip(rewards_G, kl_G, strict=True)]
            for rewards_G, kl_G in zip(rewards, kl, strict=True)
        ]
    groups = [group_advantages(rewards_G, grpo) for rewards_G in rewards]
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


def has_no_variance(rewards_G: Sequence[float]) -> bool:
    """Whether a group's rewards are equal to float error; under a group baseline such a group has no gradient."""
    largest = max(abs(reward) for reward in rewards_G)
    return max(rewards_G) - min(rewards_G) <= ZERO_VARIANCE * max(1.0, largest)


def _of_responses(
    groups: Sequence[Sequence[float]], num_tokens: Sequence[Sequence[int]], grpo: GrpoConfig
) -> list[GroupAdvantages]:
    values_N = np.array([value for group in groups for value in group])
    weights_N = np.array([count for counts_G in num_tokens for count in counts_G])
    normalised = iter(_normalised(values_N, weights_N, grpo).tolist())
    return [GroupAdvantages(tuple(next(normalised) for _ in group)) for group in groups]


def _of_tokens(
    returns: Sequence[Sequence[np.ndarray]], num_tokens: Sequence[Sequence[int]], grpo: GrpoConfig
) -> list[GroupAdvantages]:
    flat = [returns_T for group in returns for returns_T in group]
    carries_loss = [count > 0 for counts_G in num_tokens for count in counts_G]
    lengths = [len(returns_T) for returns_T in flat]
    values_N = np.concatenate(flat)
    normalised = _normalised(values_N, np.repeat(carries_loss, lengths).astype(float), grpo)
    tokens = iter(np.split(normalised, np.cumsum(lengths)[:-1]))
    found = []
    for group in returns:
        token_advantages = tuple(tuple(next(tokens).tolist()) for _ in group)
        means = tuple(statistics.fmean(values) if values else 0.0 for values in token_advantages)
        found.append(GroupAdvantages(means, token_advantages))
    return found


def _normalised(values_N: np.ndarray, weights_N: np.ndarray, grpo: GrpoConfig) -> np.ndarray:
    """(x - mean) / (std + epsilon) with the batch's mean and population standard deviation, weighted by tokens.

    The mean is subtracted only for `baseline: batch_mean`, and the division applies only to
    `advantage_scale: batch_std` (REINFORCE++, arXiv 2501.03262). Equal values give 0.
    """
    if grpo.baseline != "batch_mean" and grpo.advantage_scale != "batch_std":
        return values_N
    counted_N = values_N[weights_N > 0]
    if not counted_N.size or has_no_variance(counted_N.tolist()):
        return np.zeros_like(values_N)
    mean = np.average(values_N, weights=weights_N)
    std = np.sqrt(np.average((values_N - mean) ** 2, weights=weights_N))
    centred_N = values_N - mean if grpo.baseline == "batch_mean" else values_N
    return centred_N / (std + grpo.advantage_epsilon) if grpo.advantage_scale == "batch_std" else centred_N
