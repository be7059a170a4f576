"""Importance weights for tokens that were not sampled by the policy that learns from them.

The engine computes other log-probs than the learner (kernels, quantisation), and with
`max_staleness` it runs older weights. The ratio of the loss then starts from the learner's own
log-probs before the step's first update, and every token's loss is multiplied by
w = old / rollout, the learner's probability over the engine's (the decoupled objective of AReaL, arXiv 2505.24298).

Shapes: _T response tokens, _R responses, N either.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssr1_rl.config.schema import GrpoConfig


def importance_weights(
    old_logprobs_T: Float[Tensor, " T"],
    rollout_logprobs_T: Float[Tensor, " T"],
    response_index_T: Int[Tensor, " T"],
    num_responses: int,
    grpo: GrpoConfig,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " N"]]:
    """The weight of every token, and the distinct ones [T or R], of which the effective sample size is taken.

    Per token w = old / rollout, or per response the product over its tokens. `truncate` takes
    min(w, cap) (truncated importance sampling: IMPALA, arXiv 1802.01561; for engine mismatch
    Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training");
    `mask` takes w within [1/cap, cap] and 0 beyond (IcePop, arXiv 2510.18855). No gradient.
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

    `num_responses` is told and not read off the index, for which the host would wait for the device.
    """
    return values_T.new_zeros(num_responses).index_add(0, response_index_T, values_T)
