"""The rules between the settings of the verifier; each error names the field, its value and the fix."""

from __future__ import annotations

import re
from typing import Literal

from ssr1_rl.checks.reward_source import check_reward_source
from ssr1_rl.checks.template_options import refuse_owned_variables
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.sections.verifier import CustomVerifierConfig, VerifierConfig
from ssr1_rl.errors import ConfigError

CUSTOM = "verifier.custom"


def check_verifier(verifier: VerifierConfig, stage: Literal["verify", "calibrate"]) -> None:
    """Refuses settings of the verifier that contradict each other.

    Raises:
        ConfigError: with the settings, their values and the fix.
    """
    if stage == "calibrate":
        _there_is_something_to_calibrate(verifier)
    if verifier.method in ("claims", "chain"):
        _a_model_is_asked(verifier)
    if verifier.method == "custom":
        _custom_verifier_is_named(verifier.custom)
    _claims_can_be_found(verifier.claim_pattern)


def custom_as_reward(custom: CustomVerifierConfig) -> RewardConfig:
    """The settings in the form in which the code that loads a user's functions reads them."""
    return RewardConfig(path=custom.path, interface="ssr1", options=custom.options, runtime_env=custom.runtime_env)


def _there_is_something_to_calibrate(verifier: VerifierConfig) -> None:
    if verifier.method == "none":
        raise ConfigError("verifier.method=none gives no scores to calibrate; set it to claims, chain or custom")
    if not verifier.labels:
        raise ConfigError(
            "verifier.labels is empty: give a file of chains that people have labelled (docs/distill.md says how)"
        )


def _a_model_is_asked(verifier: VerifierConfig) -> None:
    if not verifier.model:
        raise ConfigError(
            f"verifier.model is empty and verifier.method={verifier.method} asks it: give an audio-language model, a "
            "Hugging Face folder or a hub name such as Qwen/Qwen2-Audio-7B-Instruct"
        )
    if "{claim}" not in verifier.question:
        raise ConfigError(f"verifier.question must contain {{claim}}, which stands for it, got {verifier.question!r}")
    verdicts = verifier.verdicts
    if len(verdicts) != 3 or len({verdict.strip().casefold() for verdict in verdicts} - {""}) != 3:
        raise ConfigError(
            "verifier.verdicts must be three different texts, for a claim that is supported, is contradicted, and "
            f"cannot be decided, in this order, got {verdicts!r}"
        )
    refuse_owned_variables(verifier.chat_template_kwargs, "verifier")


def _custom_verifier_is_named(custom: CustomVerifierConfig) -> None:
    if not custom.path:
        raise ConfigError(
            f"{CUSTOM}.path is empty and verifier.method=custom runs it: give 'file.py:function' or "
            "'package.module:function'"
        )
    if custom.num_gpus > 1 and custom.num_gpus % 1:
        raise ConfigError(
            f"{CUSTOM}.num_gpus must be a whole number if it is more than 1, got {custom.num_gpus:g}: an actor gets a "
            "part of one GPU, or whole ones"
        )
    check_reward_source(custom_as_reward(custom), CUSTOM)


def _claims_can_be_found(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(f"verifier.claim_pattern {pattern!r} is no regular expression: {error}") from error
    if groups > 1:
        raise ConfigError(
            f"verifier.claim_pattern {pattern!r} has {groups} groups, and the first one is the claim: make the others "
            "(?:…)"
        )
