"""Responses at the token limit: excludes them from the loss, or penalises responses as they approach it."""

from ssr1_rl.algorithm.usable import usable_tokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import Completion


def overlong_penalty(num_tokens: int, max_tokens: int, buffer_share: float) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13), to be added to a response's reward.

    -clip((num_tokens - (max_tokens - buffer)) / buffer, 0, 1): 0 up to `max_tokens` - buffer tokens, then falling
    linearly to -1 at `max_tokens`, with buffer = `buffer_share` × `max_tokens` (DAPO: 4096 of 20480).
    """
    buffer = buffer_share * max_tokens
    return -min(1.0, max(0.0, (num_tokens - (max_tokens - buffer)) / buffer))


def penalty_of(completion: Completion, max_tokens: int, grpo: GrpoConfig) -> float:
    """What the settings add to a response's reward for its length, without the factor `overlong_penalty`; 0 or less."""
    if grpo.overlong not in ("penalty", "mask_and_penalty"):
        return 0.0
    return overlong_penalty(len(completion.token_ids), max_tokens, grpo.overlong_buffer_share)


def carries_loss(completion: Completion, grpo: GrpoConfig) -> bool:
    """Whether a response is in the loss.

    With `overlong: mask` one cut at the token limit is not (DAPO, section 3.4). It still counts in its group's mean and
    standard deviation, and in the loss's denominators `sequence` and `constant`. A response without any usable log-prob
    from its engine is never in the loss.
    """
    if completion.logprobs and not any(usable_tokens(completion.logprobs)):
        return False
    return grpo.overlong not in ("mask", "mask_and_penalty") or completion.finish_reason != "length"
