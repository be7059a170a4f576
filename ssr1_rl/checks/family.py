"""Settings of the GRPO family that contradict each other."""

from ssr1_rl.config.schema import ConfigError, GrpoConfig


def check_family(grpo: GrpoConfig) -> None:
    """Refuses settings of section `grpo` that contradict each other.

    Raises:
        ConfigError: with the field, its value and the fix.
    """
    if grpo.kl_target and not grpo.kl_coefficient:
        raise ConfigError(
            f"grpo.kl_target={grpo.kl_target:g} adapts grpo.kl_coefficient, which is 0: "
            "set grpo.kl_coefficient to its starting value (0.01, for example), or grpo.kl_target=0"
        )
    if 0 < grpo.dual_clip <= 1:
        raise ConfigError(
            f"grpo.dual_clip must be greater than 1, or 0 for none, got {grpo.dual_clip:g} "
            "(it would clip tokens whose ratio is still inside the clip range)"
        )
    if grpo.dual_clip and grpo.ratio == "cispo":
        raise ConfigError(
            f"grpo.dual_clip={grpo.dual_clip:g} bounds a ratio that carries the gradient, and with grpo.ratio=cispo "
            "none does: set grpo.dual_clip=0 (grpo.clip_high bounds cispo's weight)"
        )
    if grpo.advantage_scale == "group_std":
        _group_std_divides_rewards_centred_on_the_group(grpo)


def _group_std_divides_rewards_centred_on_the_group(grpo: GrpoConfig) -> None:
    """Refuses settings under which a group of nearly equal rewards would get unbounded advantages."""
    if grpo.baseline not in ("group_mean", "leave_one_out"):
        raise ConfigError(
            f"grpo.advantage_scale=group_std needs grpo.baseline=group_mean or leave_one_out, got {grpo.baseline!r}: "
            "set grpo.advantage_scale=batch_std or none"
        )
    if grpo.kl_coefficient and grpo.kl_placement == "reward_to_go":
        raise ConfigError(
            "grpo.kl_placement=reward_to_go needs grpo.advantage_scale=batch_std or none, got 'group_std' "
            "(the group's standard deviation does not include the KL of each token): set one of them, "
            "or grpo.kl_placement=reward"
        )
