"""The response tokens of one micro-batch, as every part of the loss takes them.

Shapes: _T the response tokens of one micro-batch, flattened without padding. _R its responses, complete.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class LossTokens:
    """The arguments of the loss, per response token.

    A token that is not in the loss (its engine's log-prob is not usable) may have any finite value: it counts in no
    sum and in no mean, and has no gradient.
    """

    logprobs_T: Float[Tensor, " T"]  # of the policy being trained; has the gradient
    old_logprobs_T: Float[Tensor, " T"]  # of the policy in the denominator of the ratio
    rollout_logprobs_T: Float[Tensor, " T"]  # of the engine that sampled the tokens
    advantages_T: Float[Tensor, " T"]
    entropy_T: Float[Tensor, " T"]  # of the policy's distribution; has the gradient of an entropy bonus
    response_index_T: Int[Tensor, " T"]  # which response, from 0, each token belongs to
    num_responses: int  # R
    ref_logprobs_T: Float[Tensor, " T"] | None = None  # of the frozen reference; needed for a KL term in the loss
    in_loss_T: Bool[Tensor, " T"] | None = None  # whether each token is in the loss; None if all are
    start_logprobs_T: Float[Tensor, " T"] | None = None  # of the learner before the step's first update; None if old

    def where_in_loss(self, values_T: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """The values, and 0 for tokens that are not in the loss."""
        return values_T if self.in_loss_T is None else torch.where(self.in_loss_T, values_T, 0.0)

    def log_ratio_T(self) -> Float[Tensor, " T"]:
        """The log-ratio of new to old policy, with its gradient."""
        return self.where_in_loss(self.logprobs_T - self.old_logprobs_T)

    def log_importance_T(self) -> Float[Tensor, " T"]:
        """The log of p_learner / p_engine before the step's first update, without gradient."""
        start_T = self.old_logprobs_T if self.start_logprobs_T is None else self.start_logprobs_T
        return self.where_in_loss((start_T - self.rollout_logprobs_T).detach())

    def response_lengths_R(self) -> Float[Tensor, " R"]:
        """The number of tokens of each response that are in the loss, at least 1."""
        return self.sum_of_responses(self.where_in_loss(torch.ones_like(self.advantages_T))).clamp(min=1.0)

    def sum_of_responses(self, values_T: Float[Tensor, " T"]) -> Float[Tensor, " R"]:
        """Sums over each response's tokens.

        `num_responses` is a field because reading it from the index would make the host wait for the device.
        """
        return values_T.new_zeros(self.num_responses).index_add(0, self.response_index_T, values_T)

    def mean_of_responses(self, values_T: Float[Tensor, " T"]) -> Float[Tensor, " R"]:
        """Means over each response's tokens in the loss; `values_T` is 0 for the others."""
        return self.sum_of_responses(values_T) / self.response_lengths_R()

    def to_tokens(self, values_R: Tensor) -> Tensor:
        """Each token's value is that of its response."""
        return values_R[self.response_index_T]
