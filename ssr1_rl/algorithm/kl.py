"""Estimates of the KL divergence from the log-probs of sampled tokens.

Schulman, "Approximating KL Divergence" (2020). _T are response tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor

LARGEST_LOG_RATIO = 20.0
"""Log-ratios are bounded by this, either way: exp of 89 overflows float32, and inf x 0 in the backward pass is NaN.

A token beyond it, whose probability changed by a factor of 5e8, has no gradient of its ratio.
"""


def kl_estimate(
    logprobs_T: Float[Tensor, " T"], ref_logprobs_T: Float[Tensor, " T"], estimator: str
) -> Float[Tensor, " T"]:
    """KL(policy || reference) per token, with d = logprob - ref_logprob of a token that the policy sampled.

    k1 = d: unbiased, of either sign. In the loss its gradient has the mean 0: it belongs into the reward.
    k2 = d^2 / 2: biased, never negative; its gradient is the KL's own.
    k3 = exp(-d) + d - 1: unbiased, never negative; d is bounded in the exponential.
    """
    difference_T = logprobs_T - ref_logprobs_T
    if estimator == "k1":
        return difference_T
    if estimator == "k2":
        return difference_T.square() / 2.0
    assert estimator == "k3", f"no KL estimator {estimator}"
    # Not exp(-d) - 1, which for a small d leaves nothing but the rounding error.
    return torch.expm1((-difference_T).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)) + difference_T
