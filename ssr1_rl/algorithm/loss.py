"""The loss of the GRPO family over response tokens: ratio, clip, KL, entropy and weights by separate settings.

Shapes: _T the response tokens of one micro-batch, flattened; no padding among them. _R its responses,
each of them whole. N is either.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ssr1_rl.algorithm.importance import importance_weights, per_response_sum
from ssr1_rl.algorithm.kl import LARGEST_LOG_RATIO, kl_estimate
from ssr1_rl.config.schema import GrpoConfig


@dataclass(frozen=True)
class LossTokens:
    """What the loss is a function of.

    Attributes:
        logprobs_T: of the policy being trained; carries the gradient.
        old_logprobs_T: of the policy that the ratio is taken to.
        rollout_logprobs_T: of the engine that sampled the tokens.
        advantages_T: each token's advantage.
        entropy_T: of the policy's distribution at each token; carries the gradient of an entropy bonus.
        response_index_T: int64, which response (0 up) a token belongs to.
        num_responses: R.
        ref_logprobs_T: of the frozen reference; needed for a KL term in the loss.
    """

    logprobs_T: Float[Tensor, " T"]
    old_logprobs_T: Float[Tensor, " T"]
    rollout_logprobs_T: Float[Tensor, " T"]
    advantages_T: Float[Tensor, " T"]
    entropy_T: Float[Tensor, " T"]
    response_index_T: Int[Tensor, " T"]
    num_responses: int
    ref_logprobs_T: Float[Tensor, " T"] | None = None

    def response_lengths_T(self) -> Float[Tensor, " T"]:
        """For every token the number of tokens of its response."""
        ones_T = torch.ones_like(self.advantages_T)
        return per_response_sum(ones_T, self.response_index_T, self.num_responses)[self.response_index_T]


@dataclass(frozen=True)
class LossTerms:
    """The loss of a micro-batch and what it was made of.

    `loss` is already divided by the global denominator; the others are plain sums over tokens,
    and without gradient. `ratio_T` is as the loss used it. `importance` are the distinct
    importance weights (per token or per response); empty without correction.
    """

    loss: Float[Tensor, ""]
    clipped_low: Int[Tensor, ""]
    clipped_high: Int[Tensor, ""]
    kl: Float[Tensor, ""]
    ratio_T: Float[Tensor, " T"]
    importance: Float[Tensor, " N"]


def grpo_loss(tokens: LossTokens, denominator: int, grpo: GrpoConfig, kl_coefficient: float) -> LossTerms:
    """The sum over tokens of w (-surrogate + kl_coefficient KL - entropy_bonus H), divided once.

    The surrogate is `surrogate`'s, KL is `kl_estimate`'s (with `kl_placement: loss`), H the entropy, w
    `importance_weights` (1 without correction). `denominator` is `loss_denominator`'s, that of the whole
    global batch, so that no result depends on how the batch is cut; with `denominator: sequence`
    each token is first divided by the length of its response (DeepSeekMath, arXiv 2402.03300, eq. 3).
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
    """What the sum over the global batch's tokens is divided by; at least 1.

    Args:
        num_tokens, num_responses: of the global batch, as far as they carry loss; advantages of 0 count.

    `batch_tokens`: the tokens (DAPO, arXiv 2503.14476, eq. 12). `sequence`: the responses (DeepSeekMath,
    eq. 3). `constant`: `denominator_tokens` for every response (Dr. GRPO, arXiv 2503.20783, section 3.2).
    """
    if grpo.denominator == "batch_tokens":
        return max(1, num_tokens)
    per_response = grpo.denominator_tokens if grpo.denominator == "constant" else 1
    assert per_response > 0, "set on loading"
    return max(1, num_responses) * per_response


def kl_in_loss(grpo: GrpoConfig) -> bool:
    """Whether the loss has a KL term."""
    return bool(grpo.kl_coefficient) and grpo.kl_placement == "loss"


def keeps_all(grpo: GrpoConfig) -> bool:
    """Whether a token has a gradient although its advantage is 0."""
    return kl_in_loss(grpo) or bool(grpo.entropy_bonus)


def policy_ratio(tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """The ratio of new to old policy for every token, with its gradient.

    `sequence`: exp of the mean log-ratio over the response (GSPO, arXiv 2507.18071, section 4), with the
    gradient that falls to the token itself (section 4.3, GSPO-token): the same as GSPO's where a
    response's tokens share their advantage, and right where they do not.
    """
    log_ratio_T = tokens.logprobs_T - tokens.old_logprobs_T
    if grpo.ratio == "sequence":
        index_T = tokens.response_index_T
        sum_R = per_response_sum(log_ratio_T.detach(), index_T, tokens.num_responses)
        mean_T = sum_R[index_T] / tokens.response_lengths_T()
        log_ratio_T = mean_T + (tokens.logprobs_T - tokens.logprobs_T.detach())
    return torch.exp(log_ratio_T.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO))


def surrogate(ratio_T: Float[Tensor, " T"], tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    """What every token gains.

    min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv 1707.06347, eq. 7; the bounds apart as in
    DAPO, section 3.1), and at least dual_clip A where A < 0 (dual clip, arXiv 1912.09729). `cispo`: the
    clipped ratio as a constant, times A log-prob (MiniMax-M1, arXiv 2506.13585, eq. 4), so that no
    token loses its gradient.
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
    """Where the lower and the upper clip acted.

    That is where they took the gradient; under `cispo`, which keeps it, where they bound the weight.
    """
    low_T, high_T = ratio_T < 1.0 - grpo.clip_low, ratio_T > 1.0 + grpo.clip_high
    if grpo.ratio == "cispo":
        return low_T & (advantages_T != 0), high_T & (advantages_T != 0)
    return low_T & (advantages_T < 0), high_T & (advantages_T > 0)
