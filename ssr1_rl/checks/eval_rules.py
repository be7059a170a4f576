"""Loads the launch file of an evaluation and checks the rules between its settings."""

import re
from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.checks.batch_engines import check_batch_engines
from ssr1_rl.checks.rules import places
from ssr1_rl.checks.template_options import refuse_owned_variables
from ssr1_rl.config.load import read_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.errors import ConfigError

NAME = re.compile(r"\w[\w.+ -]*")
"""Names of models and splits: they are folders of the run."""
FILES_OF_A_RUN = frozenset({"results.json", "table.md", "table.csv"})
FOLDERS_OF_A_MODEL = frozenset({"answers", "failed.jsonl", "set_aside"})


def load_eval(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the launch file at `path` (None: only the defaults) and applies `overrides`.

    Raises:
        ConfigError: an unknown setting, a wrong type, a value out of bounds, a missing required setting, or settings
            that contradict each other.
    """
    config, origins = read_settings(path, overrides, "eval")
    try:
        check_eval_rules(config)
    except ConfigError as error:
        raise ConfigError(places(str(error), origins) + str(error)) from error
    return config


def check_eval_rules(config: Config) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    _there_are_models_and_splits(config)
    for name in config.evaluation.models:
        _names_a_folder("evaluation.models", name, FILES_OF_A_RUN)
    refuse_owned_variables(config.data.chat_template_kwargs)
    check_answering(config)


def check_answering(config: Config) -> None:
    """Refuses splits and engines with which no model can answer `data.validation`; SFT does that too, at its end.

    Raises:
        ConfigError: with the setting, its value and the fix.
    """
    for name in config.data.validation:
        _names_a_folder("data.validation", name, FOLDERS_OF_A_MODEL)
    check_batch_engines(config.evaluation.engines, "evaluation", config.run.device)


def _there_are_models_and_splits(config: Config) -> None:
    if not config.evaluation.models:
        raise ConfigError(
            "evaluation.models must name at least one model, got {}; for example "
            "evaluation.models={base: Qwen/Qwen2-Audio-7B-Instruct, trained: runs/x/export}"
        )
    if not config.data.validation:
        raise ConfigError(
            "data.validation must name at least one split, got {}; for example "
            "data.validation.mmau={format: mmau, path: mmau-test-mini.json}"
        )


def _names_a_folder(section: str, name: str, taken: frozenset[str]) -> None:
    if not NAME.fullmatch(name) or name in taken:
        why = "is the name of a file in it" if name in taken else "only letters, digits and _ . + - may be in it"
        raise ConfigError(
            f"{section}.{name}: the name {name!r} cannot be that of a folder of the run: {why}; rename it"
        )
