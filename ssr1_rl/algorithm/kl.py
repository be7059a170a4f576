"""Estimators of the KL divergence from log-probs of sampled tokens (Schulman 2020, "Approximating KL Divergence").

Shapes: _T response tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_LOG_RATIO = 20.0
"""Bound of log-ratios in an exponential: exp(89) overflows float32, and inf × 0 in the backward pass is NaN.

The ratio of a token beyond it, whose probability changed by a factor of 5e8, has no gradient.
"""
LARGEST_DIFFERENCE = 1000.0
"""Bound of log-ratios outside an exponential; only an infinite log-prob is beyond it."""


def kl_estimate(
    logprobs_T: Float[Tensor, " T"], ref_logprobs_T: Float[Tensor, " T"], estimator: str
) -> Float[Tensor, " T"]:
    """Estimates KL(policy || reference) per token, with d = logprob - ref_logprob of a token that the policy sampled.

    k1 = d: unbiased, of either sign. Its gradient in a loss has mean 0, so it belongs in the reward.
    k2 = d² / 2: biased, never negative; its expected gradient is that of the KL.
    k3 = exp(-d) + d - 1: unbiased, never negative. Below d = -20 the exponential would overflow, so d is bounded there
    in both terms: bounded in the exponential alone, k3 would have a gradient of +1, which pushes the policy further
    down. Above d = 20 the gradient is 1, as it should be.
    """
    difference_T = (logprobs_T - ref_logprobs_T).clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
    if estimator == "k1":
        return difference_T
    if estimator == "k2":
        return difference_T.square() / 2.0
    assert estimator == "k3", f"no KL estimator {estimator}"
    bounded_T = difference_T.clamp(min=-LARGEST_LOG_RATIO)
    # expm1, because exp(-d) - 1 has only rounding error left for a small d.
    return torch.expm1(-bounded_T) + bounded_T
