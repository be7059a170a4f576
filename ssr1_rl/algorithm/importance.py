"""Importance weights for tokens that were sampled by another policy than the learner's, and what they drop.

The engine's log-probs differ from the learner's (kernels, quantisation), and with `max_staleness` its weights are
older. With importance correction the ratio of the loss compares with the learner's own policy before the step's
first update (old), and the policy loss and the KL term of every token are multiplied by w = p_old / p_rollout, the
learner's probability over the engine's (decoupled objective, AReaL, arXiv 2505.24298).

Shapes: _T response tokens, _R responses, _N either.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from ssr1_rl.algorithm.ratio import bounded_exp
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig


def importance_weights(tokens: LossTokens, grpo: GrpoConfig) -> tuple[Float[Tensor, " T"], Float[Tensor, " N"]]:
    """The weight of every token [T], and the distinct weights [T or R] for the effective sample size; no gradient.

    w_t = p_old(o_t) / p_rollout(o_t) per token, or with `importance_level: sequence` the product over the response.
    `truncate` gives w in [floor, cap], without a floor by default (IMPALA, arXiv 1802.01561; for engine mismatch Yao et
    al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training"). `mask` gives w in [floor, cap]
    and 0 outside, with a floor of 1 / cap by default (IcePop, arXiv 2510.18855: 0.5 and 5).
    """
    log_weights = tokens.log_importance_T()
    if grpo.importance_level == "sequence":
        log_weights = tokens.sum_of_responses(log_weights)
    weights = bounded_exp(log_weights)
    if grpo.importance_correction == "truncate":
        weights = weights.clamp(grpo.importance_floor, grpo.importance_cap)
    else:
        weights = weights.masked_fill(_outside(weights, grpo.importance_floor, grpo.importance_cap), 0.0)
    return (tokens.to_tokens(weights) if grpo.importance_level == "sequence" else weights), weights


def rejected_responses(tokens: LossTokens, grpo: GrpoConfig) -> Bool[Tensor, " R"]:
    """Responses whose geometric mean of importance weights is outside [rejection_floor, rejection_cap].

    The geometric mean does not depend on the response's length, unlike the product (verl's rollout correction with
    rejection level `geometric`).
    """
    means_R = bounded_exp(tokens.mean_of_responses(tokens.log_importance_T()))
    return _outside(means_R, grpo.rejection_floor, grpo.rejection_cap)


def off_policy_tokens(tokens: LossTokens, grpo: GrpoConfig) -> Bool[Tensor, " T"]:
    """Tokens with a negative advantage in a response that the current policy has left (DeepSeek-V3.2, 2512.02556).

    It has if the mean over the response of log p_rollout - log p, the KL from the sampling policy by its k1 estimator,
    is above `off_policy_mask`. Both engine mismatch and updates since the sampling count.
    """
    moved_T = tokens.where_in_loss((tokens.rollout_logprobs_T - tokens.logprobs_T).detach())
    has_left_R = tokens.mean_of_responses(moved_T) > grpo.off_policy_mask
    return tokens.to_tokens(has_left_R) & (tokens.advantages_T < 0)


def _outside(weights_N: Float[Tensor, " N"], floor: float, cap: float) -> Bool[Tensor, " N"]:
    """Whether each weight is outside [floor, cap]; a floor of 0 stands for 1 / cap. NaN is inside, so it is noticed."""
    return (weights_N > cap) | (weights_N < (floor or 1.0 / cap))
