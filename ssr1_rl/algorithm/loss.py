"""The loss of the GRPO family over response tokens. Ratio, clip, KL, entropy and weights each have a setting.

A new ratio or clip belongs in `ratio.py`, a new weight in `importance.py`, a new normalisation in `loss_denominator`.

Shapes: _T the response tokens of one micro-batch, flattened without padding. _R its responses, complete. _N T or R.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssr1_rl.algorithm.importance import importance_weights, off_policy_tokens, rejected_responses
from ssr1_rl.algorithm.kl import kl_estimate
from ssr1_rl.algorithm.ratio import clipped, policy_ratio, surrogate, token_ratio
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig


@dataclass(frozen=True)
class LossTerms:
    """The loss of a micro-batch, and its parts for the metrics, which have no gradient."""

    loss: Float[Tensor, ""]  # divided by the global denominator
    clipped_low: Int[Tensor, ""]  # number of tokens
    clipped_high: Int[Tensor, ""]  # number of tokens
    kl: Float[Tensor, ""]  # sum over tokens
    ratio_T: Float[Tensor, " T"]  # as used in the loss; 1 for tokens that are not in it
    importance: Float[Tensor, " N"]  # distinct importance weights, per token or per response; empty without correction
    rejected: Int[Tensor, ""]  # number of responses that `rejection_cap` drops
    off_policy: Int[Tensor, ""]  # number of tokens that `off_policy_mask` masks


def grpo_loss(tokens: LossTokens, denominator: int, grpo: GrpoConfig, kl_coefficient: float) -> LossTerms:
    """loss = (1 / denominator) sum_t [w_t (-m_t surrogate_t + kl_coefficient KL_t) - entropy_bonus H_t].

    Here surrogate_t comes from `surrogate`, m_t is 0 for `off_policy_tokens` and else 1, KL_t comes from `kl_estimate`
    (only with `kl_placement: loss`), w_t from `importance_weights` (1 without correction; 0 for `rejected_responses`).
    H_t is the entropy: that of the learner's policy, whoever sampled the token, so it has no weight. `denominator` is
    `loss_denominator` of the whole global batch, so that no result depends on how the batch is cut. With
    `denominator: sequence` each token is also divided by the length of its response (DeepSeekMath, arXiv 2402.03300,
    eq. 3). What is masked or rejected here stays in the denominators.

    With `kl_importance_ratio` KL_t is multiplied by the token's ratio, whose gradient makes that of the whole the
    gradient of the KL, for tokens of any old policy (DeepSeek-V3.2, arXiv 2512.02556).
    """
    assert denominator > 0, "the denominator of a batch without tokens is 1"
    ratio_T = policy_ratio(tokens, grpo)
    loss_T = -surrogate(ratio_T, tokens, grpo)
    off_policy = loss_T.new_zeros((), dtype=torch.long)
    if grpo.off_policy_mask:
        left_T = off_policy_tokens(tokens, grpo)
        loss_T = loss_T.masked_fill(left_T, 0.0)
        off_policy = left_T.sum()
    kl = ratio_T.new_zeros(())
    if kl_coefficient and grpo.kl_placement == "loss":
        kl_T = _kl(tokens, grpo)
        kl = kl_T.detach().sum()
        loss_T = loss_T + kl_coefficient * (token_ratio(tokens) * kl_T if grpo.kl_importance_ratio else kl_T)
    weights_T, importance, rejected = _weights(tokens, grpo)
    if weights_T is not None:
        loss_T = weights_T * loss_T
    if grpo.entropy_bonus:
        loss_T = loss_T - grpo.entropy_bonus * tokens.entropy_T
    loss_T = tokens.where_in_loss(loss_T)
    if grpo.denominator == "sequence":
        loss_T = loss_T / tokens.to_tokens(tokens.response_lengths_R())
    low_T, high_T = clipped(ratio_T, tokens, grpo)
    return LossTerms(
        loss_T.sum() / denominator, low_T.sum(), high_T.sum(), kl, ratio_T.detach(), importance, rejected, off_policy
    )


def _kl(tokens: LossTokens, grpo: GrpoConfig) -> Float[Tensor, " T"]:
    assert tokens.ref_logprobs_T is not None, "a KL term needs the reference's log-probs"
    return tokens.where_in_loss(kl_estimate(tokens.logprobs_T, tokens.ref_logprobs_T, grpo.kl_estimator))


def _weights(
    tokens: LossTokens, grpo: GrpoConfig
) -> tuple[Float[Tensor, " T"] | None, Float[Tensor, " N"], Int[Tensor, ""]]:
    """The factor w_t of each token (None if all are 1), the distinct importance weights, and the responses rejected."""
    weights_T, importance = None, tokens.advantages_T.new_zeros(0)
    rejected = tokens.response_index_T.new_zeros(())
    if grpo.importance_correction != "none":
        weights_T, importance = importance_weights(tokens, grpo)
    if grpo.rejection_cap:
        rejected_R = rejected_responses(tokens, grpo)
        rejected = rejected_R.sum()
        rejected_T = tokens.to_tokens(rejected_R)
        weights_T = torch.ones_like(tokens.advantages_T) if weights_T is None else weights_T
        weights_T = weights_T.masked_fill(rejected_T, 0.0)
        if grpo.importance_correction != "none":
            dropped = rejected_R if grpo.importance_level == "sequence" else rejected_T
            importance = importance.masked_fill(dropped, 0.0)
    return weights_T, importance, rejected


def loss_denominator(num_tokens: int, num_responses: int, grpo: GrpoConfig) -> int:
    """The divisor of the sum over the global batch's tokens; at least 1.

    `batch_tokens`: num_tokens (DAPO, arXiv 2503.14476, eq. 12). `sequence`: num_responses (DeepSeekMath, eq. 3).
    `constant`: num_responses × denominator_tokens (Dr. GRPO, arXiv 2503.20783, section 3.2). A group that failed
    or was filtered is replaced by another, so this is the same in every update, unless responses are left out because
    no reward function applies to them (None).

    Args:
        num_tokens: those of the global batch that are in the loss, also with an advantage of 0.
        num_responses: all of the global batch, also those that are masked. A response that is not counted would raise
            the weight of all others.
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


def needs_start_logprobs(grpo: GrpoConfig) -> bool:
    """Whether the loss compares the engine with the learner's policy before the step's first update."""
    return grpo.importance_correction != "none" or bool(grpo.rejection_cap)
