"""Notes on settings of the GRPO family that are allowed but have no effect, or probably not the intended one."""

import dataclasses
from collections.abc import Mapping

from ssr1_rl.config.sections.grpo import GrpoConfig


def notes_on_algorithm(grpo: GrpoConfig, dtype: str, num_rewards: int) -> list[str]:
    """One sentence per such setting of section `grpo`, with what to do about it."""
    return [
        *_on_the_ratio(grpo, dtype),
        *_on_advantages(grpo, num_rewards),
        *_on_the_kl(grpo),
        *_without_effect(grpo),
    ]


def _on_the_ratio(grpo: GrpoConfig, dtype: str) -> list[str]:
    found = []
    at_defaults = (grpo.clip_low, grpo.clip_high) == (_default("clip_low"), _default("clip_high"))
    hard = grpo.clip == "hard"
    if grpo.ratio == "sequence" and at_defaults and hard:
        found.append(
            "grpo.ratio=sequence with grpo.clip_low and clip_high at 0.2 clips almost nothing, because the mean ratio "
            "of a response stays near 1: grpo.preset=gspo sets 3e-4 and 4e-4"
        )
    if grpo.ratio in ("sequence", "geometric_mean") and grpo.denominator != "sequence":
        found.append(
            f"grpo.ratio={grpo.ratio} with grpo.denominator={grpo.denominator} counts the ratio of a response once for "
            "each of its tokens, so that long responses weigh more: set grpo.denominator=sequence, as the paper does"
        )
    if grpo.ratio == "cispo" and at_defaults:
        found.append(
            "grpo.ratio=cispo with grpo.clip_low and clip_high at 0.2 cuts weights at 0.8 and 1.2, and CISPO cuts them "
            "only far above 1: grpo.preset=cispo sets clip_low=1 and clip_high=4"
        )
    narrow = hard and min(grpo.clip_low, grpo.clip_high) < 0.01
    if grpo.ratio == "sequence" and narrow and grpo.importance_correction == "none" and dtype == "bfloat16":
        found.append(
            "grpo.ratio=sequence compares with the engine's log-probs, whose bfloat16 noise alone exceeds a clip of "
            f"{grpo.clip_low:g} / {grpo.clip_high:g}: set grpo.importance_correction=truncate"
        )
    if grpo.ratio == "token" and hard and grpo.clip_low == grpo.clip_high == 0.0:
        found.append(
            "grpo.clip_low=0 and grpo.clip_high=0 take the gradient from every token as soon as its ratio moves: set "
            "both to 0.2, for example"
        )
    return found


def _on_advantages(grpo: GrpoConfig, num_rewards: int) -> list[str]:
    found = []
    if grpo.dynamic_sampling and grpo.baseline not in ("group_mean", "leave_one_out"):
        found.append(
            f"grpo.dynamic_sampling replaces groups of equal rewards, which have a gradient with grpo.baseline="
            f"{grpo.baseline}: set grpo.dynamic_sampling=false, or grpo.baseline=group_mean"
        )
    if grpo.whiten_advantages and (grpo.baseline == "batch_mean" or grpo.advantage_scale in BATCH_SCALES):
        found.append(
            f"grpo.whiten_advantages undoes grpo.baseline={grpo.baseline} with grpo.advantage_scale="
            f"{grpo.advantage_scale}, because it subtracts the batch's mean and divides by its standard deviation "
            "itself: set grpo.advantage_scale=none, or grpo.whiten_advantages=false"
        )
    if grpo.normalize_each_reward and num_rewards == 1 and "penalty" not in grpo.overlong:
        found.append("grpo.normalize_each_reward has no effect with a single reward function: leave it out")
    return found


BATCH_SCALES = ("batch_std", "batch_reward_std")


def _on_the_kl(grpo: GrpoConfig) -> list[str]:
    if not grpo.kl_coefficient or grpo.kl_placement != "loss":
        return []
    if grpo.kl_estimator == "k1" and not grpo.kl_importance_ratio:
        return [
            "grpo.kl_estimator=k1 with grpo.kl_placement=loss does not keep the policy near its start, because its "
            "gradient is 0 on average: set grpo.kl_estimator=k2 or k3, grpo.kl_importance_ratio=true, or "
            "grpo.kl_placement=reward with grpo.advantage_scale=none"
        ]
    return []


def _without_effect(grpo: GrpoConfig) -> list[str]:
    """Settings that are not at their defaults, and that nothing reads with the others as they are."""
    penalises = grpo.overlong in ("penalty", "mask_and_penalty")
    uses_batch = grpo.baseline == "batch_mean" or grpo.advantage_scale in BATCH_SCALES or grpo.whiten_advantages
    correction = (grpo.importance_correction != "none", "importance_correction=none: set that to truncate or mask")
    soft, hard = (grpo.clip == "soft", "clip=hard: set that to soft"), (grpo.clip == "hard", "clip=soft: leave it out")
    penalty = (penalises, f"overlong={grpo.overlong}: set that to penalty or mask_and_penalty")
    kl_in_loss = bool(grpo.kl_coefficient) and grpo.kl_placement == "loss"
    needed: Mapping[str, tuple[bool, str]] = {
        "importance_level": correction,
        "importance_cap": correction,
        "importance_floor": correction,
        "soft_clip_positive": soft,
        "soft_clip_negative": soft,
        "clip_low": hard,
        "clip_high": hard,
        "kl_importance_ratio": (
            kl_in_loss,
            f"kl_coefficient={grpo.kl_coefficient:g} and kl_placement={grpo.kl_placement}: it is for KL in the loss",
        ),
        "batch_statistics": (uses_batch, f"advantage_scale={grpo.advantage_scale}: nothing is over the batch"),
        "dynamic_sampling_limit": (grpo.dynamic_sampling, "dynamic_sampling=false: set that to true"),
        "overlong_penalty": penalty,
        "overlong_buffer_share": penalty,
    }
    return [
        f"grpo.{name}={getattr(grpo, name)} has no effect with grpo.{why}"
        for name, (is_read, why) in needed.items()
        if not is_read and getattr(grpo, name) != _default(name)
    ]


def _default(name: str) -> object:
    return next(spec.default for spec in dataclasses.fields(GrpoConfig) if spec.name == name)
