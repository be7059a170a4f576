"""Group-relative advantages."""

import statistics
from collections.abc import Sequence

ZERO_VARIANCE = 1e-6
"""Rewards of a group that differ by no more than this, relative to their size, count as equal.

Mean and standard deviation of equal floats are not exactly equal and zero; without
a tolerance such a group would get advantages of about 1e-3 instead of 0.
"""


def group_advantages(rewards_G: Sequence[float], epsilon: float) -> tuple[float, ...]:
    """(r_i - mean r) / (std r + epsilon), one per response; all 0 where every reward is the same.

    DeepSeekMath (arXiv 2402.03300), section 4.1.2. The standard deviation is the
    sample's (divided by G - 1), as in the reference implementations.

    Raises:
        ValueError: fewer than two rewards.
    """
    if len(rewards_G) < 2:
        raise ValueError(f"a group needs at least 2 rewards for relative advantages, got {len(rewards_G)}")
    if has_no_variance(rewards_G):
        return (0.0,) * len(rewards_G)
    mean = statistics.fmean(rewards_G)
    std = statistics.stdev(rewards_G)
    return tuple((reward - mean) / (std + epsilon) for reward in rewards_G)


def has_no_variance(rewards_G: Sequence[float]) -> bool:
    """Whether all rewards of a group are the same, to float error: such a group teaches nothing."""
    largest = max(abs(reward) for reward in rewards_G)
    return max(rewards_G) - min(rewards_G) <= ZERO_VARIANCE * max(1.0, largest)
