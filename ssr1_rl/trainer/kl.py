"""Estimates of the KL divergence from the log-probs of sampled tokens.

Schulman, "Approximating KL Divergence" (2020). _T are response tokens.
"""

import torch
from torch import Tensor


def kl_estimate(logprobs_T: Tensor, ref_logprobs_T: Tensor, estimator: str) -> Tensor:
    """KL(policy || reference) per token, with d = logprob - ref_logprob of a token that the policy sampled.

    k1 = d: unbiased, of either sign. In the loss its gradient has the mean 0: it belongs into the reward.
    k2 = d^2 / 2: biased, never negative; its gradient is the KL's own.
    k3 = exp(-d) + d - 1: unbiased, never negative.
    """
    difference_T = logprobs_T - ref_logprobs_T
    if estimator == "k1":
        return difference_T
    if estimator == "k2":
        return difference_T.square() / 2.0
    assert estimator == "k3", f"no KL estimator {estimator}"
    return k3(logprobs_T, ref_logprobs_T)


def k3(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: unbiased, never negative."""
    log_ratio_T = ref_logprobs_T - logprobs_T
    return torch.exp(log_ratio_T) - log_ratio_T - 1.0
