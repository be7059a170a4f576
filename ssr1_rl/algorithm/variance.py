"""Whether rewards differ at all: equal ones have no gradient under a group's baseline."""

import math
from collections.abc import Mapping, Sequence

from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import ScoredGroup

ZERO_VARIANCE = 1e-6
"""Rewards of a group that differ by no more than this, relative to their size, count as equal.

The floating-point standard deviation of equal rewards is not exactly 0; without a tolerance such a group would get
advantages of about 1e-3 instead of 0.
"""


def has_no_variance(rewards_G: Sequence[float]) -> bool:
    """Whether a group's rewards are equal to float error; under a group baseline such a group has no gradient."""
    largest = max(abs(reward) for reward in rewards_G)
    return max(rewards_G) - min(rewards_G) <= ZERO_VARIANCE * max(1.0, largest)


def teaches_nothing(scored: ScoredGroup, grpo: GrpoConfig, weights: Mapping[str, float]) -> bool:
    """Whether a group has no gradient under a group baseline.

    With `normalize_each_reward` each reward function has to be without variance: two that cancel out in the sum
    still teach. One of weight 0 teaches nothing.

    Args:
        weights: `rewards[].weight` by the reward function's name.
    """
    if not grpo.normalize_each_reward:
        return has_no_variance(scored.rewards_G)
    counted = (values for name, values in scored.breakdown.items() if weights[name])
    parts = ([r for r in map(number_or_nan, values) if not math.isnan(r)] for values in counted)
    return all(len(applying) < 2 or has_no_variance(applying) for applying in parts)


def number_or_nan(reward: float | None) -> float:
    """The reward, or NaN if the reward function does not apply to the response (None)."""
    return math.nan if reward is None else reward
