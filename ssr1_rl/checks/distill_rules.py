"""Loads a launch file for the stages of `ssr1-rl distill`, and checks the rules between their settings.

Every error names the field, its value and the fix.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ssr1_rl.checks.batch_engines import check_batch_engines
from ssr1_rl.checks.rules import places
from ssr1_rl.checks.template_options import refuse_owned_variables
from ssr1_rl.checks.verifier_rules import check_verifier
from ssr1_rl.config.load import read_settings
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.errors import ConfigError

Stage = Literal["generate", "verify", "calibrate"]


def load_distill(path: str | Path, overrides: Sequence[str] = (), stage: Stage = "generate") -> Config:
    """Reads the launch file at `path`, and applies `overrides` such as `teacher.num_chains=8`.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of bounds, a missing
            required setting, or settings that contradict each other.
    """
    config, origins = read_settings(path, overrides, "distill")
    try:
        check_distill(config, stage)
    except ConfigError as error:
        raise ConfigError(places(str(error), origins) + str(error)) from error
    return config


def check_distill(config: Config, stage: Stage) -> None:
    """Refuses settings of a stage that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    refuse_owned_variables(config.data.chat_template_kwargs)
    if stage == "generate":
        check_teacher(config.teacher)
        if not config.teacher.endpoint.url:
            check_batch_engines(config.teacher.engines, "teacher", config.run.device)
    else:
        check_verifier(config.verifier, stage)
        if config.verifier.method in ("claims", "chain"):
            check_batch_engines(config.verifier.engines, "verifier", config.run.device)


def check_teacher(teacher: TeacherConfig) -> None:
    """Refuses settings of the teacher that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    if not teacher.model:
        raise ConfigError(
            "teacher.model is empty: give the vision-language model, a Hugging Face folder or a hub name such as "
            "Qwen/Qwen2.5-VL-32B-Instruct"
        )
    _chains_can_differ(teacher)
    _a_majority_needs_several(teacher)
    for index, word in enumerate(teacher.forbidden_words):
        if not word.strip():
            raise ConfigError(f"teacher.forbidden_words[{index}] is empty; give a word, or leave it out")


def _chains_can_differ(teacher: TeacherConfig) -> None:
    if teacher.num_chains > 1 and teacher.temperature == 0:
        raise ConfigError(
            f"teacher.temperature=0 writes the same chain teacher.num_chains={teacher.num_chains} times: set "
            "teacher.num_chains=1, or a temperature such as 0.8"
        )


def _a_majority_needs_several(teacher: TeacherConfig) -> None:
    if teacher.keep == "majority" and teacher.num_chains < 3:
        raise ConfigError(
            f"teacher.keep=majority needs at least 3 chains to vote, got teacher.num_chains={teacher.num_chains}; "
            "raise it, or set teacher.keep=label"
        )
