"""The weight of the KL term, kept or adapted to a target."""

from ssr1_rl.config.schema import GrpoConfig

GAIN = 0.1
LARGEST_ERROR = 0.2


class KlCoefficient:
    """Starts at `grpo.kl_coefficient`; with `grpo.kl_target` it follows the KL that was measured.

    Ziegler et al. 2019 (arXiv 1909.08593), section 2.2: with e = clip(KL / target - 1, -0.2, 0.2),
    the coefficient is multiplied by 1 + 0.1 e after every step. KL and target are per token here,
    where the paper has them per response, so that a target holds whatever the responses' length.

    Attributes:
        value: the coefficient of the next step; part of the controller's checkpoint.
    """

    def __init__(self, grpo: GrpoConfig) -> None:
        self.value = grpo.kl_coefficient
        self._target = grpo.kl_target

    def resume(self, value: float) -> None:
        """Goes on from a checkpoint's coefficient, if it was and is adapted; a fixed one is what the settings say."""
        if self._target and value:
            self.value = value

    def observe(self, kl: float) -> None:
        """Takes the KL to the reference of the step just done, mean per token in nats."""
        if self._target:
            error = max(-LARGEST_ERROR, min(LARGEST_ERROR, kl / self._target - 1.0))
            self.value *= 1.0 + GAIN * error
