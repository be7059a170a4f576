"""The weight of the KL term: fixed, or adapted so that the KL approaches a target."""

import math

from ssr1_rl.config.sections.grpo import GrpoConfig

GAIN = 0.1
LARGEST_ERROR = 0.2


class KlCoefficient:
    """Starts at `grpo.kl_coefficient`, and is adapted after every step if `grpo.kl_target` is set.

    coefficient *= 1 + 0.1 e with e = clip(KL / target - 1, -0.2, 0.2) (Ziegler et al. 2019, arXiv 1909.08593,
    section 2.2). KL and target are per token, not per response as in the paper, so that the target does not depend on
    the responses' length.

    Attributes:
        value: the coefficient of the next step; part of the controller's checkpoint.
    """

    def __init__(self, grpo: GrpoConfig) -> None:
        self.value = grpo.kl_coefficient
        self._target = grpo.kl_target

    def resume(self, value: float) -> None:
        """Restores a checkpoint's value if it is not 0 and `kl_target` is set; else keeps that of the settings."""
        if self._target and value:
            self.value = value

    def observe(self, kl: float) -> None:
        """Adapts the coefficient to the last step's KL to the reference, mean per token in nats, if that is finite."""
        if self._target and math.isfinite(kl):
            error = max(-LARGEST_ERROR, min(LARGEST_ERROR, kl / self._target - 1.0))
            self.value *= 1.0 + GAIN * error
