"""Means and standard deviations over the batch of a step.

With `batch_statistics: tokens` a response counts as often as it has tokens in the loss, and the variance is that of the
population (REINFORCE++, arXiv 2501.03262). With `responses` each response in the loss counts once, and the variance is
that of a sample (divisor: their number less 1), as in the reference implementations.

Shapes: _N all values of the step, one per response, or per token if tokens differ.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ssr1_rl.algorithm.variance import has_no_variance
from ssr1_rl.config.sections.grpo import GrpoConfig


def normalised(values_N: Float[np.ndarray, " N"], weights_N: Float[np.ndarray, " N"], grpo: GrpoConfig) -> np.ndarray:
    """The advantages less the batch's mean, over its standard deviation, as far as the settings ask for it.

    `baseline: batch_mean` subtracts the mean and `advantage_scale: batch_std` divides (REINFORCE++). Then
    `whiten_advantages` does both, of advantages that have another baseline or scale already (REINFORCE++ with a group's
    mean as baseline; GDPO, arXiv 2601.05242).
    """
    values_N = _whitened(values_N, weights_N, grpo, grpo.baseline == "batch_mean", grpo.advantage_scale == "batch_std")
    return _whitened(values_N, weights_N, grpo, grpo.whiten_advantages, grpo.whiten_advantages)


def batch_reward_std(
    rewards: Sequence[Sequence[float]], num_tokens: Sequence[Sequence[int]], grpo: GrpoConfig
) -> float:
    """Standard deviation of the batch's rewards, without a baseline (Lite PPO, arXiv 2508.08221); 0 if all equal."""
    values_N = np.array([reward for rewards_G in rewards for reward in rewards_G])
    counts_N = np.array([count for counts_G in num_tokens for count in counts_G])
    weights_N = counts_N if grpo.batch_statistics == "tokens" else counts_N > 0
    return _mean_and_std(values_N, weights_N.astype(float), grpo)[1]


def _whitened(values_N: np.ndarray, weights_N: np.ndarray, grpo: GrpoConfig, centre: bool, divide: bool) -> np.ndarray:
    """(x - mean) / (std + epsilon), or one of the two; equal values give 0."""
    if not centre and not divide:
        return values_N
    mean, std = _mean_and_std(values_N, weights_N, grpo)
    if not std:
        return np.zeros_like(values_N)
    centred_N = values_N - mean if centre else values_N
    return centred_N / (std + grpo.advantage_epsilon) if divide else centred_N


def _mean_and_std(values_N: np.ndarray, weights_N: np.ndarray, grpo: GrpoConfig) -> tuple[float, float]:
    """Mean and standard deviation of values with a weight; (0, 0) if these are equal, or too few."""
    counted_N = values_N[weights_N > 0]
    total = weights_N.sum() - (1.0 if grpo.batch_statistics == "responses" else 0.0)
    if not counted_N.size or total <= 0 or has_no_variance(counted_N.tolist()):
        return 0.0, 0.0
    mean = np.average(values_N, weights=weights_N)
    return float(mean), float(np.sqrt(np.dot(weights_N, (values_N - mean) ** 2) / total))
