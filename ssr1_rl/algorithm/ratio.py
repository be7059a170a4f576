"""The ratio of new to old policy, and the surrogate that clips it. Each kind is a choice of `grpo.ratio`, `grpo.clip`.

Shapes: _T the response tokens of one micro-batch. _R its responses, complete.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ssr1_rl.algorithm.kl import LARGEST_LOG_RATIO
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig


def policy_ratio(tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """The ratio of every token, with its gradient.

    `token`, `cispo`: ratio_t = exp(log p_t - log p_old_t).
    `sequence`: the exponential of the mean log-ratio over the response (GSPO, arXiv 2507.18071, section 4), whose
    gradient is taken through the token's own log-prob alone (GSPO-token, section 4.3). It equals GSPO's gradient if all
    tokens of a response share an advantage, and extends it to tokens that do not.
    `geometric_mean`: the same of log-ratios that were clipped before, each on the side that its advantage's sign says
    (GMPO, arXiv 2507.20673). A clipped token has no gradient, but counts in its response's mean.
    """
    log_ratio_T = tokens.log_ratio_T()
    if grpo.ratio == "geometric_mean":
        log_ratio_T = _clipped_log_ratio(log_ratio_T, tokens.advantages_T, grpo)
    if grpo.ratio in ("sequence", "geometric_mean"):
        mean_T = tokens.to_tokens(tokens.mean_of_responses(log_ratio_T.detach()))
        log_ratio_T = mean_T + (log_ratio_T - log_ratio_T.detach())
    return bounded_exp(log_ratio_T)


def token_ratio(tokens: LossTokens) -> Float[Tensor, " T"]:
    """Each token's own ratio, with its gradient, for any `grpo.ratio`."""
    return bounded_exp(tokens.log_ratio_T())


def bounded_exp(log_ratio_T: Tensor) -> Tensor:
    """The exponential of log-ratios, bounded where it would overflow; NaN stays NaN."""
    return torch.exp(log_ratio_T.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def surrogate(ratio_T: Float[Tensor, " T"], tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """The objective of every token, to be maximised.

    min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv 1707.06347, eq. 7; separate bounds: DAPO,
    section 3.1), and at least dual_clip A for A < 0 (dual clip, arXiv 1912.09729). With `ratio: geometric_mean` the
    ratio is clipped already. With `ratio: cispo`, the clipped ratio without gradient, times A log p (MiniMax-M1,
    arXiv 2506.13585, eq. 4), so that no token loses its gradient. With `clip: soft`,
    A (4 / tau) sigmoid(tau (ratio - 1)) (SAPO, arXiv 2511.20347): the gradient at a ratio of 1 is that without a clip,
    and fades on both sides; tau depends on the sign of A.
    """
    advantages_T = tokens.advantages_T
    if grpo.clip == "soft":
        tau_T = torch.full_like(advantages_T, grpo.soft_clip_negative)
        tau_T = tau_T.masked_fill(advantages_T > 0, grpo.soft_clip_positive)
        return torch.sigmoid(tau_T * (ratio_T - 1.0)) * (4.0 / tau_T) * advantages_T
    clipped_T = ratio_T.clamp(1.0 - grpo.clip_low, 1.0 + grpo.clip_high)
    if grpo.ratio == "cispo":
        return clipped_T.detach() * advantages_T * tokens.logprobs_T
    surrogate_T = ratio_T * advantages_T
    if grpo.ratio != "geometric_mean":
        surrogate_T = torch.minimum(surrogate_T, clipped_T * advantages_T)
    if grpo.dual_clip:
        floor_T = grpo.dual_clip * advantages_T
        surrogate_T = torch.where(advantages_T < 0, torch.maximum(surrogate_T, floor_T), surrogate_T)
    return surrogate_T


def clipped(
    ratio_T: Float[Tensor, " T"], tokens: LossTokens, grpo: GrpoConfig
) -> tuple[Bool[Tensor, " T"], Bool[Tensor, " T"]]:
    """Tokens that the lower and the upper clip affect; none with a soft clip.

    The clip removes their gradient, or with `cispo`, which keeps the gradient, bounds their weight.
    """
    advantages_T = tokens.advantages_T
    if grpo.clip == "soft":
        none_T = torch.zeros_like(advantages_T, dtype=torch.bool)
        return none_T, none_T
    if grpo.ratio == "geometric_mean":
        ratio_T = token_ratio(tokens)
    low_T, high_T = ratio_T < 1.0 - grpo.clip_low, ratio_T > 1.0 + grpo.clip_high
    if grpo.ratio == "cispo":
        low_T, high_T = low_T & (advantages_T != 0), high_T & (advantages_T != 0)
    else:
        low_T, high_T = low_T & (advantages_T < 0), high_T & (advantages_T > 0)
    if tokens.in_loss_T is not None:
        low_T, high_T = low_T & tokens.in_loss_T, high_T & tokens.in_loss_T
    return low_T, high_T


def _clipped_log_ratio(
    log_ratio_T: Float[Tensor, " T"], advantages_T: Float[Tensor, " T"], grpo: GrpoConfig
) -> Float[Tensor, " T"]:
    """min(log ratio, log(1 + clip_high)) for A > 0 and max(log ratio, log(1 - clip_low)) for A < 0, as PPO clips."""
    low = math.log(1.0 - grpo.clip_low) if grpo.clip_low < 1.0 else -math.inf
    high = math.log(1.0 + grpo.clip_high)
    below_T = torch.where(advantages_T < 0, log_ratio_T.clamp(min=low), log_ratio_T)
    return torch.where(advantages_T > 0, log_ratio_T.clamp(max=high), below_T)
