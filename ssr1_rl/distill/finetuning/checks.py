"""Reads and checks what an SFT run needs, before anything starts: data, chains, model, checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from ssr1_rl.checks.clips import check_clip_length, check_decoders
from ssr1_rl.checks.notes import notes_on_sft
from ssr1_rl.checks.preflight import check_model
from ssr1_rl.checks.questions import check_clips, check_prompts, notes_on
from ssr1_rl.config.model_path import is_here
from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import Split, Splits, read_split
from ssr1_rl.distill.asked import with_setup
from ssr1_rl.distill.finetuning.examples import Examples, choose_examples
from ssr1_rl.distill.finetuning.plan import Plan
from ssr1_rl.store.resume import check_resume
from ssr1_rl.telemetry.trackers.base import check_installed


@dataclass(frozen=True)
class Checked:
    """What the checks have read. `has_model` is False for a model that has to be downloaded first."""

    splits: Splits  # of `data.validation` only if they are answered at the end
    examples: Examples
    plan: Plan
    has_model: bool
    notes: list[str]


def check_run(config: Config) -> Checked:
    """Checks everything that can be checked before a process starts.

    Raises:
        Explained: with what is wrong and how to fix it. For a missing file, this is `run.setup` if that is set.
    """
    return with_setup(config, lambda: _check(config))


def check_with_model(config: Config, splits: Splits) -> list[str]:
    """What needs the model's configuration and tokenizer; returns notes."""
    check_model(config.model, config.learner.prefix_packing)
    check_clip_length(config.data, config.model.path)
    return check_prompts(splits, config)[1]


def _check(config: Config) -> Checked:
    check_decoders()
    check_installed(config.telemetry.trackers)
    check_resume(config.run, config.model.lora)
    share = config.data.max_skipped_share
    train = read_split(config.data.train, "data.train", share)
    validation: dict[str, Split] = {}
    if config.sft.generate:
        for name, split in config.data.validation.items():
            validation[name] = read_split(split, f"data.validation.{name}", share)
    splits = Splits(train, validation)
    examples = choose_examples(train.questions, config.sft, share, config.run.seed)
    notes = notes_on_sft(config) + [note for split in splits for note in notes_on(split)] + examples.notes
    has_model = is_here(config.model.path)
    notes += check_with_model(config, splits) if has_model else check_clips(splits, config.data)
    plan = Plan(examples.train, config.sft, config.run.seed)
    if config.learner.warmup_steps > plan.num_steps:
        notes.append(
            f"learner.warmup_steps={config.learner.warmup_steps} is more than the run's {plan.num_steps} steps, so the "
            "warm-up never ends: lower it, or raise sft.num_epochs"
        )
    if config.learner.port:
        notes.append(f"learner.port={config.learner.port} has no effect here: Ray Train chooses the port")
    return Checked(splits, examples, plan, has_model, notes)
