"""Every split that a launch file names: its own, and those of a recipe's stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from omegaconf import MISSING

from ssr1_rl.config.load import OfStage, read_settings
from ssr1_rl.config.schema import Config, StagesConfig
from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.errors import UserError

TRAIN = "data.train"


def read_data_settings(path: Path, overrides: Sequence[str]) -> tuple[Config, dict[str, DatasetConfig]]:
    """The settings of a launch file's `data`, and every split by its section: those of training first.

    A split that a stage of a recipe sets differently has the section `stages.NAME.data…`.

    Raises:
        ConfigError: a setting is wrong.
        UserError: the file names no split.
    """
    config, _ = read_settings(path, overrides, "data")
    splits = named_splits(config.data)
    for stage in dataclasses.fields(StagesConfig):
        of_stage, _ = read_settings(path, overrides, "data", OfStage(stage.name, {}))
        new = {name: split for name, split in named_splits(of_stage.data).items() if split not in splits.values()}
        splits |= {f"stages.{stage.name}.{name}": split for name, split in new.items()}
    if not splits:
        raise UserError("the settings name no data; set data.train.path or data.validation.NAME.path")
    return config, dict(sorted(splits.items(), key=lambda item: not item[0].endswith(TRAIN)))


def named_splits(data: DataConfig) -> dict[str, DatasetConfig]:
    """The splits of the settings, by their section."""
    train = {} if data.train.path == MISSING else {TRAIN: data.train}
    return train | {f"data.validation.{name}": split for name, split in data.validation.items()}
