"""Schedule of the learning rate over a run."""

import math

from ssr1_rl.config.sections.learner import LearnerConfig


def learning_rate_share(config: LearnerConfig, update: int, num_updates: int) -> float:
    """The factor of `learning_rate` in `update`, counted from 0, of a run of `num_updates`.

    With w = warmup_steps, n = decay_steps or num_updates and p = (update - w) / (n - w): (update + 1) / w during
    warm-up, then 1 (constant), 1 - p (linear) or (1 + cos(pi p)) / 2 (cosine).
    """
    if update < config.warmup_steps:
        return (update + 1) / config.warmup_steps
    progress = (update - config.warmup_steps) / max(1, (config.decay_steps or num_updates) - config.warmup_steps)
    if config.lr_schedule == "linear":
        return max(0.0, 1.0 - progress)
    if config.lr_schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
    return 1.0
