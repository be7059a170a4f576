"""The checks of a run that need its files and its model's shapes, made before anything starts.

A dry run and a real run make the same checks, which neither run a user's code nor load weights.
"""

from dataclasses import dataclass

from ssr1_rl.checks.clips import check_clip_length, check_decoders
from ssr1_rl.checks.engine_options import refuse_unknown
from ssr1_rl.checks.questions import Example, check_clips, check_prompts, notes_on
from ssr1_rl.checks.reward_source import check_reward_source
from ssr1_rl.config.model_path import is_here
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.data.splits import Splits, read_splits
from ssr1_rl.errors import MissingFile
from ssr1_rl.store.resume import check_resume
from ssr1_rl.telemetry.trackers.base import check_installed


@dataclass(frozen=True)
class Preflight:
    """What the checks have read."""

    splits: Splits
    examples: list[Example]  # one question of each split as the model gets it; empty if the model is not here yet
    notes: list[str]


def preflight(config: Config) -> Preflight:
    """Checks data, rewards, engine arguments, checkpoint and model before any actor starts; reads every split.

    `check_model` and `check_prompts` are left to the caller for a model on the hub that has to be downloaded first.

    Raises:
        Explained: with what is wrong and how to fix it. For a missing file, this is `run.setup` if that is set.
    """
    try:
        return _preflight(config)
    except MissingFile as error:
        raise MissingFile(f"{error}. To get it: {config.run.setup}" if config.run.setup else str(error)) from None


def _preflight(config: Config) -> Preflight:
    check_decoders()
    for index, reward in enumerate(config.rewards):
        check_reward_source(reward, f"rewards[{index}]")
    refuse_unknown(config.rollout)
    check_installed(config.telemetry.trackers)
    check_resume(config.run, config.model.lora)
    has_model = is_here(config.model.path)
    if has_model:
        check_model(config.model, config.learner.prefix_packing)
        check_clip_length(config.data, config.model.path)
    splits = read_splits(config.data)
    notes = [note for split in splits for note in notes_on(split)]
    if not has_model:
        return Preflight(splits, [], notes + check_clips(splits, config.data))
    examples, more = check_prompts(splits, config)
    return Preflight(splits, examples, notes + more)


def check_model(model: ModelConfig, prefix_packing: bool) -> None:
    """Refuses a model that the learner cannot train with these settings: type, sliding windows, LoRA targets.

    Raises:
        ValueError: with what is wrong and how to fix it.
    """
    from ssr1_rl.trainer.model.lora import find_targets
    from ssr1_rl.trainer.model.policy import empty_policy

    policy = empty_policy(model.path, model.train_audio_tower, prefix_packing)
    if model.lora.rank:
        find_targets(policy.model, model.lora.target_modules)
