"""Quantiles of the policy ratio over all tokens of a step, from a histogram that can be summed over ranks.

Bins are logarithmic in |log ratio|, 24 per factor of ten from 1e-6 to 10, for either sign. So a quantile is accurate
to 5 % of its log ratio both for token ratios (tenths away from 1) and for sequence ratios (ten-thousandths).

Shapes: _T tokens.
"""

import math

import torch
from torch import Tensor

BINS_PER_DECADE = 24
SMALLEST, DECADES = 1e-6, 7
_POSITIVE = SMALLEST * 10 ** (torch.arange(DECADES * BINS_PER_DECADE + 1, dtype=torch.float64) / BINS_PER_DECADE)
EDGES = torch.cat([-_POSITIVE.flip(0), _POSITIVE])
NUM_BINS = len(EDGES) + 1


def count_ratios(ratio_T: Tensor) -> Tensor:
    """int64 [NUM_BINS] on the CPU: how many ratios fall into each bin."""
    log_ratio_T = ratio_T.detach().double().log().cpu()
    return torch.bincount(torch.bucketize(log_ratio_T, EDGES), minlength=NUM_BINS)


def ratio_quantile(counts: Tensor, share: float) -> float:
    """The ratio below which this `share` of the counted ratios is; 1 if none was counted."""
    total = int(counts.sum())
    if not total:
        return 1.0
    index = int(torch.searchsorted(counts.cumsum(0), max(1, math.ceil(share * total))))
    return math.exp(_middle(index))


def _middle(index: int) -> float:
    """The log ratio of a bin: the geometric mean of its edges, 0 for the middle bin, the edge of an outer one."""
    if index in (0, NUM_BINS - 1):
        return float(EDGES[0] if index == 0 else EDGES[-1])
    low, high = float(EDGES[index - 1]), float(EDGES[index])
    return math.copysign(math.sqrt(low * high), low) if low * high > 0 else 0.0
