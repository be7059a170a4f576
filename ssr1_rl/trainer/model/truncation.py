"""Which tokens top-k, top-p and min-p leave, so that the learner's log-probs are those of the engine's distribution.

The learner finds them from its own logits. At the weights that sampled a response this is the engine's set; after an
update it is the current policy's own, and the sampled token always stays in it, so that its log-prob is finite.

Shapes: _C tokens of a chunk, _V vocabulary.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ssr1_rl.types import Distribution

DROPPED = -1e9
"""Logit of a token that is not sampled: its probability is exactly 0, and unlike with -inf, 0 x DROPPED is 0."""


def lowest_kept(logits_CV: Float[Tensor, "C V"], distribution: Distribution) -> Float[Tensor, " C"]:
    """The smallest tempered logit that is still sampled from; tokens of equal logits are kept or dropped together."""
    lowest_C = torch.full_like(logits_CV[:, 0], -math.inf)
    if distribution.min_p > 0:
        lowest_C = logits_CV.amax(-1) + math.log(distribution.min_p)
    if 0 < distribution.top_k < logits_CV.shape[1]:
        lowest_C = torch.maximum(lowest_C, logits_CV.topk(distribution.top_k).values[:, -1])
    if distribution.top_p < 1:
        # The nucleus is that of what min_p and top_k have left. A token is in it if those above it do not fill it.
        sorted_CV = logits_CV.masked_fill(logits_CV < lowest_C[:, None], -math.inf).sort(descending=True).values
        probs_CV = sorted_CV.softmax(-1)
        num_kept_C = (probs_CV.cumsum(-1) - probs_CV < distribution.top_p).sum(-1)
        last_C = (num_kept_C - 1).clamp(min=0)
        lowest_C = torch.maximum(lowest_C, sorted_CV.gather(-1, last_C[:, None])[:, 0])
    return lowest_C


def drop_(logits_CV: Float[Tensor, "C V"], lowest_C: Float[Tensor, " C"], targets_C: Int[Tensor, " C"]) -> None:
    """Sets the logits below `lowest_C` to `DROPPED`, save those of the targets; in place."""
    of_targets_C1 = logits_CV.gather(-1, targets_C[:, None])
    logits_CV.masked_fill_(logits_CV < lowest_C[:, None], DROPPED)
    logits_CV.scatter_(-1, targets_C[:, None], of_targets_C1)
