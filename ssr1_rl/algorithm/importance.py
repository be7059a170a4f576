"""Importance weights for tokens that were sampled by another policy than the learner's.

The engine's log-probs differ from the learner's (kernels, quantisation), and with `max_staleness` its weights are
older. With importance correction the ratio of the loss compares with the learner's own policy before the step's
first update (old), and every token's loss is multiplied by w = p_old / p_rollout, the learner's probability over the
engine's (decoupled objective, AReaL, arXiv 2505.24298).

Shapes: _T response tokens, _R responses, _N either.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssr1_rl.config.sections.grpo import GrpoConfig


def importance_weights(
    old_logprobs_T: Float[Tensor, " T"],
    rollout_logprobs_T: Float[Tensor, " T"],
    response_index_T: Int[Tensor, " T"],
    num_responses: int,
    grpo: GrpoConfig,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " N"]]:
    """The weight of every token [T], and the distinct weights [T or R] for the effective sample size; no gradient.

    w_t = p_old(o_t) / p_rollout(o_t) per token, or with `importance_level: sequence` the product over the response.
    `truncate` gives min(w, cap) (IMPALA, arXiv 1802.01561; for engine mismatch Yao et al. 2025, "Your Efficient RL
    Framework Secretly Brings You Off-Policy RL Training"); `mask` gives w in [1/cap, cap] and 0 outside
    (IcePop, arXiv 2510.18855).
    """
    log_weights = (old_logprobs_T - rollout_logprobs_T).detach()
    if grpo.importance_level == "sequence":
        log_weights = per_response_sum(log_weights, response_index_T, num_responses)
    weights = torch.exp(log_weights)
    if grpo.importance_correction == "truncate":
        weights = weights.clamp(max=grpo.importance_cap)
    else:
        kept = (weights <= grpo.importance_cap) & (weights >= 1.0 / grpo.importance_cap)
        weights = torch.where(kept, weights, 0.0)
    return (weights[response_index_T] if grpo.importance_level == "sequence" else weights), weights


def per_response_sum(
    values_T: Float[Tensor, " T"], response_index_T: Int[Tensor, " T"], num_responses: int
) -> Float[Tensor, " R"]:
    """Sums over each response's tokens.

    `num_responses` is an argument because reading it from the index would make the host wait for the device.
    """
    return values_T.new_zeros(num_responses).index_add(0, response_index_T, values_T)
