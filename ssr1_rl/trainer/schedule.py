"""The learning rate over a run."""

import math

from ssr1_rl.config.schema import LearnerConfig


def learning_rate_share(config: LearnerConfig, update: int, num_updates: int) -> float:
    """The share of `learning_rate` that the 0-based `update` of `num_updates` is made with.

    Linear warm-up, then constant, or down to 0 just behind the last update: in a line or a half cosine wave.
    """
    if update < config.warmup_steps:
        return (update + 1) / config.warmup_steps
    progress = (update - config.warmup_steps) / max(1, num_updates - config.warmup_steps)
    if config.lr_schedule == "linear":
        return max(0.0, 1.0 - progress)
    if config.lr_schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return 1.0
