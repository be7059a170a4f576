"""Tokens whose log-prob from the engine is a number that a log-prob can be.

An engine returns NaN or an infinity now and then (a CUDA graph that was replayed on stale buffers, for example). Such a
token stays in its response, because later tokens were sampled after it, but leaves the loss: there is no ratio for it.
"""

import math
from collections.abc import Sequence

LARGEST_LOGPROB = 1e-3
"""A log-prob is at most 0; rounding of the engine's softmax can add a little."""


def is_usable(logprob: float) -> bool:
    """Whether a log-prob is finite and not above 0."""
    return -math.inf < logprob <= LARGEST_LOGPROB


def usable_tokens(logprobs_T: Sequence[float]) -> tuple[bool, ...]:
    """[T] whether each token's log-prob can be used."""
    # Fast for the usual case: a NaN or an infinity makes the sum one too.
    if math.isfinite(sum(logprobs_T)) and max(logprobs_T, default=0.0) <= LARGEST_LOGPROB:
        return (True,) * len(logprobs_T)
    return tuple(is_usable(logprob) for logprob in logprobs_T)
