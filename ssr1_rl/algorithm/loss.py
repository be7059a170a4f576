"""The loss of the GRPO family over response tokens. Ratio, clip, KL, entropy and weights each have a setting.

A new ratio belongs in `policy_ratio`, a new clip in `surrogate` (and `clipped`), a new normalisation in
`loss_denominator`.

Shapes: _T the response tokens of one micro-batch, flattened without padding. _R its responses, complete. _N T or R.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssr1_rl.algorithm.importance import importance_weights, per_response_sum
from ssr1_rl.algorithm.kl import LARGEST_LOG_RATIO, kl_estimate
from ssr1_rl.config.sections.grpo import GrpoConfig


@dataclass(frozen=True)
class LossTokens:
    """The arguments of the loss, per response token."""

    logprobs_T: Float[Tensor, " T"]  # of the policy being trained; has the gradient
    old_logprobs_T: Float[Tensor, " T"]  # of the policy in the denominator of the ratio
    rollout_logprobs_T: Float[Tensor, " T"]  # of the engine that sampled the tokens
    advantages_T: Float[Tensor, " T"]
    entropy_T: Float[Tensor, " T"]  # of the policy's distribution; has the gradient of an entropy bonus
    response_index_T: Int[Tensor, " T"]  # which response, from 0, each token belongs to
    num_responses: int  # R
    ref_logprobs_T: Float[Tensor, " T"] | None = None  # of the frozen reference; needed for a KL term in the loss

    def response_lengths_T(self) -> Float[Tensor, " T"]:
        """The number of tokens of each token's response."""
        ones_T = torch.ones_like(self.advantages_T)
        return per_response_sum(ones_T, self.response_index_T, self.num_responses)[self.response_index_T]


@dataclass(frozen=True)
class LossTerms:
    """The loss of a micro-batch, and its parts for the metrics, which have no gradient."""

    loss: Float[Tensor, ""]  # divided by the global denominator
    clipped_low: Int[Tensor, ""]  # number of tokens
    clipped_high: Int[Tensor, ""]  # number of tokens
    kl: Float[Tensor, ""]  # sum over tokens
    ratio_T: Float[Tensor, " T"]  # as used in the loss
    importance: Float[Tensor, " N"]  # distinct importance weights, per token or per response; empty without correction


def grpo_loss(tokens: LossTokens, denominator: int, grpo: GrpoConfig, kl_coefficient: float) -> LossTerms:
    """loss = (1 / denominator) sum_t w_t (-surrogate_t + kl_coefficient KL_t - entropy_bonus H_t).

    Here surrogate_t comes from `surrogate`, KL_t from `kl_estimate` (only with `kl_placement: loss`), w_t from
    `importance_weights` (1 without correction), and H_t is the entropy. `denominator` is `loss_denominator` of the
    whole global batch, so that no result depends on how the batch is cut. With `denominator: sequence` each token is
    also divided by the length of its response (DeepSeekMath, arXiv 2402.03300, eq. 3).
    """
    assert denominator > 0, "a batch has at least one token"
    ratio_T = policy_ratio(tokens, grpo)
    loss_T = -surrogate(ratio_T, tokens, grpo)
    kl = ratio_T.new_zeros(())
    if kl_coefficient and grpo.kl_placement == "loss":
        assert tokens.ref_logprobs_T is not None, "a KL term needs the reference's log-probs"
        kl_T = kl_estimate(tokens.logprobs_T, tokens.ref_logprobs_T, grpo.kl_estimator)
        loss_T = loss_T + kl_coefficient * kl_T
        kl = kl_T.detach().sum()
    if grpo.entropy_bonus:
        loss_T = loss_T - grpo.entropy_bonus * tokens.entropy_T
    importance = ratio_T.new_zeros(0)
    if grpo.importance_correction != "none":
        weights_T, importance = importance_weights(
            tokens.old_logprobs_T, tokens.rollout_logprobs_T, tokens.response_index_T, tokens.num_responses, grpo
        )
        loss_T = weights_T * loss_T
    if grpo.denominator == "sequence":
        loss_T = loss_T / tokens.response_lengths_T()
    low_T, high_T = clipped(ratio_T, tokens.advantages_T, grpo)
    return LossTerms(loss_T.sum() / denominator, low_T.sum(), high_T.sum(), kl, ratio_T.detach(), importance)


def loss_denominator(num_tokens: int, num_responses: int, grpo: GrpoConfig) -> int:
    """The divisor of the sum over the global batch's tokens; at least 1.

    `batch_tokens`: num_tokens (DAPO, arXiv 2503.14476, eq. 12). `sequence`: num_responses (DeepSeekMath, eq. 3).
    `constant`: num_responses × denominator_tokens (Dr. GRPO, arXiv 2503.20783, section 3.2).

    Args:
        num_tokens, num_responses: those of the global batch that are in the loss, also with an advantage of 0.
    """
    if grpo.denominator == "batch_tokens":
        return max(1, num_tokens)
    per_response = grpo.denominator_tokens if grpo.denominator == "constant" else 1
    assert per_response > 0, "the configuration sets denominator_tokens on loading"
    return max(1, num_responses) * per_response


def kl_in_loss(grpo: GrpoConfig) -> bool:
    """Whether the loss has a KL term."""
    return bool(grpo.kl_coefficient) and grpo.kl_placement == "loss"


def keeps_all(grpo: GrpoConfig) -> bool:
    """Whether tokens with an advantage of 0 have a gradient."""
    return kl_in_loss(grpo) or bool(grpo.entropy_bonus)


def policy_ratio(tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """The ratio of new to old policy of every token, with its gradient.

    ratio_t = exp(log p_t - log p_old_t). With `ratio: sequence`, the exponential of the mean log-ratio over the
    response (GSPO, arXiv 2507.18071, section 4), whose gradient is taken through the token's own log-prob alone
    (GSPO-token, section 4.3). It equals GSPO's gradient if all tokens of a response share an advantage, and extends
    it to tokens that do not.
    """
    log_ratio_T = tokens.logprobs_T - tokens.old_logprobs_T
    if grpo.ratio == "sequence":
        index_T = tokens.response_index_T
        sum_R = per_response_sum(log_ratio_T.detach(), index_T, tokens.num_responses)
        mean_T = sum_R[index_T] / tokens.response_lengths_T()
        log_ratio_T = mean_T + (tokens.logprobs_T - tokens.logprobs_T.detach())
    return torch.exp(log_ratio_T.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def surrogate(ratio_T: Float[Tensor, " T"], tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """The clipped objective of every token, to be maximised.

    min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv 1707.06347, eq. 7; separate bounds: DAPO,
    section 3.1), and at least dual_clip A for A < 0 (dual clip, arXiv 1912.09729). With `ratio: cispo`, the clipped
    ratio without gradient, times A log p (MiniMax-M1, arXiv 2506.13585, eq. 4), so that no token loses its gradient.
    """
    advantages_T = tokens.advantages_T
    clipped_T = ratio_T.clamp(1.0 - grpo.clip_low, 1.0 + grpo.clip_high)
    if grpo.ratio == "cispo":
        return clipped_T.detach() * advantages_T * tokens.logprobs_T
    surrogate_T = torch.minimum(ratio_T * advantages_T, clipped_T * advantages_T)
    if grpo.dual_clip:
        floor_T = grpo.dual_clip * advantages_T
        surrogate_T = torch.where(advantages_T < 0, torch.maximum(surrogate_T, floor_T), surrogate_T)
    return surrogate_T


def clipped(
    ratio_T: Float[Tensor, " T"], advantages_T: Float[Tensor, " T"], grpo: GrpoConfig
) -> tuple[Bool[Tensor, " T"], Bool[Tensor, " T"]]:
    """Tokens that the lower and the upper clip affect.

    The clip removes their gradient, or with `cispo`, which keeps the gradient, bounds their weight.
    """
    low_T, high_T = ratio_T < 1.0 - grpo.clip_low, ratio_T > 1.0 + grpo.clip_high
    if grpo.ratio == "cispo":
        return low_T & (advantages_T != 0), high_T & (advantages_T != 0)
    return low_T & (advantages_T < 0), high_T & (advantages_T > 0)
