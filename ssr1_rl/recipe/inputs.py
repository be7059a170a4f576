"""Looks for what a recipe starts from, before its first stage: hours later would be late to miss it."""

from collections.abc import Mapping

from ssr1_rl.config.model_path import check_model_folder
from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import read_split
from ssr1_rl.errors import MissingFile


def check_inputs(configs: Mapping[str, Config], setup: str) -> tuple[int, int]:
    """Reads the questions of all splits, and looks for the model folders that no stage makes.

    Args:
        configs: the settings of the stages that are needed.
        setup: how to get what is missing (`run.setup`).

    Returns:
        Numbers of questions to train on, and of the splits of the stage `evaluate`.

    Raises:
        Explained: a file or a model is missing, or a file holds no questions.
    """
    train = configs["sft"].data
    num_evaluated = 0
    try:
        for setting, path in _models(configs).items():
            check_model_folder(path, setting)
        num_train = len(read_split(train.train, "data.train", train.max_skipped_share).questions)
        for stage in ("grpo", "evaluate"):
            data = configs[stage].data
            for name, split in data.validation.items():
                found = read_split(split, f"data.validation.{name}", data.max_skipped_share).questions
                num_evaluated += len(found) if stage == "evaluate" else 0
    except MissingFile as error:
        raise MissingFile(f"{error}. To get it: {setup}" if setup else str(error)) from None
    return num_train, num_evaluated


def _models(configs: Mapping[str, Config]) -> dict[str, str]:
    """The models that the stages start from, by the setting that names each."""
    found = {"model.path": configs["sft"].model.path}
    if "generate" in configs and not configs["generate"].teacher.endpoint.url:
        found["teacher.model"] = configs["generate"].teacher.model
    if "verify" in configs and configs["verify"].verifier.model:
        found["verifier.model"] = configs["verify"].verifier.model
    return found
