"""Notes on settings that are allowed but have no effect, or probably not the intended one."""

from collections.abc import Collection

from ssr1_rl.checks.algorithm_notes import notes_on_algorithm
from ssr1_rl.checks.gpu_notes import gpu_notes
from ssr1_rl.checks.reward_source import reward_notes
from ssr1_rl.checks.unused import unused_by_answers, unused_settings
from ssr1_rl.config.schema import SECTIONS, Config
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.written import literal_secrets


def notes(config: Config) -> list[str]:
    """One sentence per such setting, with what to do about it."""
    return [
        *notes_on_algorithm(config.grpo, config.model.dtype, len(config.rewards)),
        *unused_settings(config),
        *reward_notes(config.rewards),
        *_notes_on_the_learner(config.learner, config.grpo, config.data.max_prompt_tokens),
        *gpu_notes(config),
        *_notes_on_secrets(config),
    ]


def notes_on_sft(config: Config) -> list[str]:
    """The same for SFT."""
    return [*unused_settings(config, SECTIONS["sft"]), *_notes_on_secrets(config)]


def notes_on_answers(config: Config, sections: Collection[str]) -> list[str]:
    """The same for a command that only lets models answer rows, and reads these sections."""
    return [*unused_by_answers(config.run), *unused_settings(config, sections), *_notes_on_secrets(config)]


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
