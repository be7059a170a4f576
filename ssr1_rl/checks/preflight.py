"""Every check of a run that needs its files and its model's shapes, made before anything starts.

A dry run and a real one make the same. None of them runs a user's code or loads a weight.
"""

from pathlib import Path

from ssr1_rl.checks.engine_options import refuse_unknown
from ssr1_rl.checks.reward_source import check_reward_source
from ssr1_rl.config.schema import Config, ConfigError, DatasetConfig
from ssr1_rl.store.folder import check_resume


def preflight(config: Config) -> None:
    """Refuses what would otherwise stop the run only once its actors have started.

    A model on the hub is left to `check_model`: its configuration may have to be fetched first.

    Raises:
        ValueError: with what is wrong and how to mend it.
    """
    for name, dataset in {"train": config.data.train, **_validation(config)}.items():
        _check_dataset(dataset, f"data.{name}")
    for index, reward in enumerate(config.rewards):
        check_reward_source(reward, f"rewards[{index}]")
    refuse_unknown(config.rollout)
    check_resume(config.run, config.model.lora)
    if not is_on_hub(config.model.path):
        check_model(config)


def check_model(config: Config) -> None:
    """Refuses a model that the learner cannot train as the settings say: its type, sliding windows, LoRA's targets."""
    from ssr1_rl.trainer.model.lora import find_targets
    from ssr1_rl.trainer.model.policy import empty_policy

    check_model_folder(config.model.path)
    policy = empty_policy(config.model.path, config.model.train_audio_tower, config.learner.prefix_packing)
    if config.model.lora.rank:
        find_targets(policy.model, config.model.lora.target_modules)


def is_on_hub(path: str) -> bool:
    """Whether a model path is the name of a repository such as Qwen/Qwen2-Audio-7B-Instruct.

    Not where its first part is a folder here: then it is a mistyped path.
    """
    if path.startswith((".", "~", "/")) or path.count("/") != 1:
        return False
    return not Path(path).parent.is_dir()


def check_model_folder(path: str) -> None:
    """Refuses a model path that looks like a folder and is none.

    Raises:
        ValueError: no such folder, or no config.json in it.
    """
    folder = Path(path)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"model.path {path} holds no config.json; give a Hugging Face model folder")
    elif not is_on_hub(path):
        raise ValueError(
            f"model.path {path} does not exist; give a Hugging Face model folder, or a hub name such as "
            "Qwen/Qwen2-Audio-7B-Instruct"
        )


def _validation(config: Config) -> dict[str, DatasetConfig]:
    return {f"validation.{name}": dataset for name, dataset in config.data.validation.items()}


def _check_dataset(dataset: DatasetConfig, field: str) -> None:
    if not Path(dataset.path).is_file():
        raise ConfigError(f"{field}.path {dataset.path} is no file (looked for in {Path.cwd()}); give its questions")
    if dataset.audio_dir and not Path(dataset.audio_dir).is_dir():
        raise ConfigError(f"{field}.audio_dir {dataset.audio_dir} is no folder (looked for in {Path.cwd()})")
