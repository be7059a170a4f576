"""Loads a launch file for `ssr1-rl sft`, and checks the rules between its settings.

Every error names the field, its value and the fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.checks.eval_rules import check_answering
from ssr1_rl.checks.rules import check_training, places
from ssr1_rl.config.load import read_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.errors import ConfigError


def load_sft(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the launch file at `path` (None: only the defaults) and applies `overrides` such as `sft.num_epochs=2`.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of bounds, a missing
            required setting, or settings that contradict each other.
    """
    config, origins = read_settings(path, overrides, "sft")
    try:
        check_sft(config)
    except ConfigError as error:
        raise ConfigError(places(str(error), origins) + str(error)) from error
    return config


def check_sft(config: Config) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    check_training(config)
    _chains_are_given(config.sft)
    _the_template_holds_the_answer(config.sft)
    if config.sft.generate and config.data.validation:
        check_answering(config)
    if config.sft.questions_per_step < config.learner.num_workers:
        raise ConfigError(
            f"sft.questions_per_step must be at least learner.num_workers={config.learner.num_workers}, a question for "
            f"every rank, got {config.sft.questions_per_step}"
        )


def _chains_are_given(sft: SftConfig) -> None:
    if sft.responses != "labels" and not sft.chains:
        writer = "verify" if sft.responses == "validated" else "generate"
        raise ConfigError(
            f"sft.chains is empty: give the file that `ssr1-rl distill {writer}` wrote, or set sft.responses=labels to "
            "learn the labels alone"
        )


def _the_template_holds_the_answer(sft: SftConfig) -> None:
    if sft.responses == "labels" and "{answer}" not in sft.label_template:
        raise ConfigError(
            f"sft.label_template must hold {{answer}}, for which the label is put, got {sft.label_template!r}"
        )
