"""The checks of a run that need its files and its model's shapes, made before anything starts.

A dry run and a real run make the same checks, which neither run a user's code nor load weights.
"""

from pathlib import Path

from ssr1_rl.checks.clips import check_clip_length, check_decoders
from ssr1_rl.checks.engine_options import refuse_unknown
from ssr1_rl.checks.reward_source import check_reward_source
from ssr1_rl.config.model_path import is_on_hub
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.store.folder import check_resume


def preflight(config: Config) -> None:
    """Checks data, rewards, engine arguments, checkpoint and model before any actor starts.

    A model on the hub is left to `check_model`, because its configuration may have to be downloaded first.

    Raises:
        ValueError: with what is wrong and how to fix it.
    """
    check_decoders()
    _check_dataset(config.data.train, "data.train")
    for name, dataset in config.data.validation.items():
        _check_dataset(dataset, f"data.validation.{name}")
    for index, reward in enumerate(config.rewards):
        check_reward_source(reward, f"rewards[{index}]")
    refuse_unknown(config.rollout)
    check_resume(config.run, config.model.lora)
    if not is_on_hub(config.model.path):
        check_model(config.model, config.learner.prefix_packing)
        check_clip_length(config.data, config.model.path)


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


def _check_dataset(dataset: DatasetConfig, field: str) -> None:
    if not Path(dataset.path).is_file():
        raise ConfigError(f"{field}.path {dataset.path} is not a file (looked for in {Path.cwd()}); give a data file")
    if dataset.audio_dir and not Path(dataset.audio_dir).is_dir():
        raise ConfigError(
            f"{field}.audio_dir {dataset.audio_dir} is not a folder (looked for in {Path.cwd()}); set it right"
        )
