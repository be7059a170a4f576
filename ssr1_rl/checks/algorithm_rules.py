"""Rules between the settings of the GRPO family; each is a function named as a sentence. Used by `rules.py`.

Refused is what contradicts itself or trains on something senseless. What is only without effect gives a note
(`algorithm_notes.py`).
"""

from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.errors import ConfigError


def check_algorithm(grpo: GrpoConfig) -> None:
    """Raises `ConfigError` for settings of section `grpo` that contradict each other."""
    _a_target_adapts_a_coefficient(grpo)
    _dual_clip_is_beyond_the_clip_range(grpo)
    _a_soft_clip_replaces_the_hard_one(grpo)
    _importance_weights_have_a_range(grpo)
    _group_std_divides_rewards_centred_on_the_group(grpo)
    _noise_of_the_kl_is_not_scaled_up(grpo)
    _each_reward_is_scaled_by_itself(grpo)
    _the_ratio_makes_the_gradient_of_an_unbiased_kl(grpo)


def _a_target_adapts_a_coefficient(grpo: GrpoConfig) -> None:
    if grpo.kl_target and not grpo.kl_coefficient:
        raise ConfigError(
            f"grpo.kl_target={grpo.kl_target:g} adapts grpo.kl_coefficient, which is 0: "
            "set grpo.kl_coefficient to its starting value (0.01, for example), or grpo.kl_target=0"
        )


def _dual_clip_is_beyond_the_clip_range(grpo: GrpoConfig) -> None:
    if not grpo.dual_clip:
        return
    if grpo.ratio == "cispo":
        raise ConfigError(
            f"grpo.dual_clip={grpo.dual_clip:g} bounds a ratio that carries the gradient, and with grpo.ratio=cispo "
            "none does: set grpo.dual_clip=0 (grpo.clip_high bounds cispo's weight)"
        )
    least = 1.0 + grpo.clip_high
    if grpo.dual_clip <= least:
        raise ConfigError(
            f"grpo.dual_clip must be greater than 1 + grpo.clip_high = {least:g}, or 0 for none, got "
            f"{grpo.dual_clip:g} (it would clip tokens whose ratio is still inside the clip range): set it to "
            f"{max(3.0, 2 * least):g}, for example, or to 0"
        )


def _a_soft_clip_replaces_the_hard_one(grpo: GrpoConfig) -> None:
    if grpo.clip != "soft":
        return
    if grpo.ratio in ("cispo", "geometric_mean"):
        raise ConfigError(
            f"grpo.clip=soft needs grpo.ratio=token or sequence, got {grpo.ratio!r}, which clips to bounds by its "
            "definition: set grpo.clip=hard, or another grpo.ratio"
        )
    if grpo.dual_clip:
        raise ConfigError(
            f"grpo.dual_clip={grpo.dual_clip:g} bounds what grpo.clip=soft bounds already: set grpo.dual_clip=0"
        )


def _importance_weights_have_a_range(grpo: GrpoConfig) -> None:
    if grpo.importance_correction == "mask" and grpo.importance_cap <= 1.0:
        raise ConfigError(
            "grpo.importance_cap must be greater than 1 with grpo.importance_correction=mask, got "
            f"{grpo.importance_cap:g}, which masks every token whose weight is not exactly 1: set it to 2, for example"
        )
    if grpo.importance_correction != "none" and grpo.importance_floor >= 1.0:
        raise ConfigError(
            f"grpo.importance_floor must be less than 1, got {grpo.importance_floor:g}, which leaves no weight below 1 "
            "as it is: set it to 0.5, for example, or to 0"
        )
    if 0 < grpo.rejection_cap <= 1.0:
        raise ConfigError(
            f"grpo.rejection_cap must be greater than 1, or 0 for none, got {grpo.rejection_cap:g}, which drops about "
            "half of the responses: set it to 1.001 for float32 or 1.01 for bfloat16 engines, for example"
        )
    if grpo.rejection_floor and not grpo.rejection_cap:
        raise ConfigError(
            f"grpo.rejection_floor={grpo.rejection_floor:g} drops no response without grpo.rejection_cap: set that too "
            "(1.01, for example), or grpo.rejection_floor=0"
        )


def _group_std_divides_rewards_centred_on_the_group(grpo: GrpoConfig) -> None:
    """Otherwise a group whose rewards are nearly equal would get advantages without bound."""
    if grpo.advantage_scale == "group_std" and grpo.baseline not in ("group_mean", "leave_one_out"):
        raise ConfigError(
            f"grpo.advantage_scale=group_std needs grpo.baseline=group_mean or leave_one_out, got {grpo.baseline!r}: "
            "set grpo.advantage_scale=batch_std or none"
        )


def _noise_of_the_kl_is_not_scaled_up(grpo: GrpoConfig) -> None:
    """A group of equal rewards would differ by the noise of its KL alone, and its standard deviation makes that 1."""
    if grpo.advantage_scale != "group_std" or not grpo.kl_coefficient or grpo.kl_placement == "loss":
        return
    why = {
        "reward": "a group of equal rewards differs only by the noise of its KL, which the group's standard deviation "
        "scales up to advantages of 1 and 2",
        "reward_to_go": "the group's standard deviation does not include the KL of each token",
    }[grpo.kl_placement]
    raise ConfigError(
        f"grpo.kl_placement={grpo.kl_placement} needs grpo.advantage_scale=batch_std or none, got 'group_std' ({why}): "
        "set one of them, or grpo.kl_placement=loss"
    )


def _each_reward_is_scaled_by_itself(grpo: GrpoConfig) -> None:
    if grpo.normalize_each_reward and grpo.advantage_scale != "group_std":
        raise ConfigError(
            "grpo.normalize_each_reward=true needs grpo.advantage_scale=group_std, got "
            f"{grpo.advantage_scale!r} (without a scale for each, it does not matter when rewards are added up): "
            "set grpo.advantage_scale=group_std, or grpo.normalize_each_reward=false"
        )


def _the_ratio_makes_the_gradient_of_an_unbiased_kl(grpo: GrpoConfig) -> None:
    if grpo.kl_importance_ratio and grpo.kl_estimator == "k2":
        raise ConfigError(
            "grpo.kl_importance_ratio=true needs grpo.kl_estimator=k1 or k3, got 'k2', whose own gradient is that of "
            "the KL already: set grpo.kl_estimator=k3, or grpo.kl_importance_ratio=false"
        )
