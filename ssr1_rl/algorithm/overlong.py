"""Responses that ran into the token limit: masked from the loss, or penalised on the way there."""

from ssr1_rl.config.schema import GrpoConfig
from ssr1_rl.types import Completion


def overlong_penalty(num_tokens: int, max_tokens: int, buffer_share: float) -> float:
    """DAPO's soft punishment (arXiv 2503.14476, eq. 13), 0 to -1, added to a response's reward.

    0 up to `max_tokens` less the buffer, then falling linearly to -1 at `max_tokens`.

    Args:
        num_tokens: of the response.
        max_tokens: the longest that a response may be, the buffer included.
        buffer_share: the buffer, as a share of `max_tokens` (DAPO: 4096 of 20480).
    """
    buffer = buffer_share * max_tokens
    return -min(1.0, max(0.0, (num_tokens - (max_tokens - buffer)) / buffer))


def shaped_reward(reward: float, completion: Completion, max_tokens: int, grpo: GrpoConfig) -> float:
    """A response's reward with the penalty, if that is set."""
    if grpo.overlong != "penalty":
        return reward
    return reward + overlong_penalty(len(completion.token_ids), max_tokens, grpo.overlong_buffer_share)


def carries_loss(completion: Completion, grpo: GrpoConfig) -> bool:
    """Whether a response is trained on: not if it was cut and `overlong` is mask (DAPO, section 3.4).

    It still counts in its group's mean and standard deviation.
    """
    return grpo.overlong != "mask" or completion.finish_reason != "length"
