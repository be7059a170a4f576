"""Notes on settings that are allowed but have no effect, or probably not the intended one."""

import dataclasses

from ssr1_rl.checks.gpu_notes import gpu_notes
from ssr1_rl.checks.reward_source import reward_notes
from ssr1_rl.checks.unused import unused_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.written import literal_secrets


def notes(config: Config) -> list[str]:
    """One sentence per such setting, with what to do about it."""
    return [
        *_notes_on_the_ratio(config.grpo, config.model.dtype),
        *_notes_on_the_kl_term(config.grpo),
        *unused_settings(config),
        *reward_notes(config.rewards),
        *_notes_on_the_learner(config.learner, config.grpo, config.data.max_prompt_tokens),
        *gpu_notes(config),
        *_notes_on_secrets(config),
    ]


def _notes_on_the_ratio(grpo: GrpoConfig, dtype: str) -> list[str]:
    found = []
    at_defaults = (grpo.clip_low, grpo.clip_high) == (_default("clip_low"), _default("clip_high"))
    if grpo.ratio == "sequence" and at_defaults:
        found.append(
            "grpo.ratio=sequence with grpo.clip_low and clip_high at 0.2 clips almost nothing, because the mean ratio "
            "of a response stays near 1: grpo.preset=gspo sets 3e-4 and 4e-4"
        )
    if grpo.ratio == "cispo" and at_defaults:
        found.append(
            "grpo.ratio=cispo with grpo.clip_low and clip_high at 0.2 cuts weights at 0.8 and 1.2, and CISPO cuts them "
            "only far above 1: grpo.preset=cispo sets clip_low=1 and clip_high=4"
        )
    narrow = min(grpo.clip_low, grpo.clip_high) < 0.01
    if grpo.ratio == "sequence" and narrow and grpo.importance_correction == "none" and dtype == "bfloat16":
        found.append(
            "grpo.ratio=sequence compares with the engine's log-probs, whose bfloat16 noise alone exceeds a clip of "
            f"{grpo.clip_low:g} / {grpo.clip_high:g}: set grpo.importance_correction=truncate"
        )
    return found


def _notes_on_the_kl_term(grpo: GrpoConfig) -> list[str]:
    if grpo.kl_coefficient and grpo.kl_estimator == "k1" and grpo.kl_placement == "loss":
        return [
            "grpo.kl_estimator=k1 with grpo.kl_placement=loss does not keep the policy near its start, because its "
            "gradient is 0 on average: set grpo.kl_estimator=k2 or k3, or grpo.kl_placement=reward"
        ]
    return []


def _notes_on_the_learner(learner: LearnerConfig, grpo: GrpoConfig, max_prompt_tokens: int) -> list[str]:
    found = []
    num_updates = grpo.num_steps * grpo.num_epochs * grpo.num_minibatches
    if learner.warmup_steps > num_updates:
        found.append(
            f"learner.warmup_steps={learner.warmup_steps} is more than the run's {num_updates} updates, so the warm-up "
            "never ends: lower it, or raise grpo.num_steps"
        )
    if learner.max_tokens_per_micro_batch < max_prompt_tokens:
        found.append(
            f"learner.max_tokens_per_micro_batch={learner.max_tokens_per_micro_batch} is below one prompt of "
            f"data.max_prompt_tokens={max_prompt_tokens}: a group with a longer prompt is split into single "
            "responses, and its prompt is computed for each of them"
        )
    return found


def _notes_on_secrets(config: Config) -> list[str]:
    return [
        f"{name} looks like a secret, and config.yaml in the run's folder holds it: put it into a variable of the "
        "environment and write ${oc.env:NAME}, which stays as it is written"
        for name in literal_secrets(config)
    ]


def _default(name: str) -> object:
    return next(spec.default for spec in dataclasses.fields(GrpoConfig) if spec.name == name)
