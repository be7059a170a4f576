"""The GRPO loss over response tokens.

Shapes: _T the response tokens of one micro-batch, flattened; no padding among them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LossTerms:
    """The loss of a micro-batch and what it was made of, each a sum over its tokens.

    `loss` is already divided by the global denominator; the others are plain sums.
    """

    loss: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    kl: Tensor


def grpo_loss(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    num_loss_tokens: int,
    clip_low: float,
    clip_high: float,
    ref_logprobs_T: Tensor | None = None,
    kl_coefficient: float = 0.0,
) -> LossTerms:
    """Clipped policy-gradient loss, DeepSeekMath (arXiv 2402.03300) eq. 3, at token level.

    Per token -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) + kl_coefficient k3, with
    ratio = exp(logprob - old_logprob), and k3 = exp(ref - logprob) - (ref - logprob) - 1
    (Schulman 2020). The sum is divided once by `num_loss_tokens`, the number of response tokens of
    the whole global batch (DAPO, arXiv 2503.14476, eq. 8), so that no result depends on how the
    batch is cut.

    Args:
        logprobs_T: of the policy being trained; carries the gradient.
        old_logprobs_T: of the policy that sampled the tokens.
        advantages_T: each token's advantage.
        ref_logprobs_T: of the frozen reference; needed when `kl_coefficient` is not 0.
    """
    ratio_T = torch.exp(logprobs_T - old_logprobs_T)
    clipped_T = ratio_T.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss_T = -torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    kl = logprobs_T.new_zeros(())
    if kl_coefficient:
        assert ref_logprobs_T is not None, "a KL term needs the reference's log-probs"
        kl_T = k3(logprobs_T, ref_logprobs_T)
        loss_T = loss_T + kl_coefficient * kl_T
        kl = kl_T.detach().sum()
    return LossTerms(
        loss=loss_T.sum() / num_loss_tokens,
        clipped_low=((ratio_T < 1.0 - clip_low) & (advantages_T < 0)).sum(),
        clipped_high=((ratio_T > 1.0 + clip_high) & (advantages_T > 0)).sum(),
        kl=kl,
    )


def k3(logprobs_T: Tensor, ref_logprobs_T: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token: unbiased, never negative."""
    log_ratio_T = ref_logprobs_T - logprobs_T
    return torch.exp(log_ratio_T) - log_ratio_T - 1.0
