"""What verdicts depend on beside the chains and the clips: answers of another fingerprint are not used again."""

from __future__ import annotations

import hashlib

from ssr1_rl.checks.verifier_rules import CUSTOM, custom_as_reward
from ssr1_rl.config.schema import Config
from ssr1_rl.inference.depends_on import model_files, with_digest
from ssr1_rl.rewards.load import read_source

VERSION = 1
"""Rises when the same settings make other requests."""


def verdicts_of_a_model(config: Config) -> dict[str, object]:
    """In values that JSON holds. Which rule and threshold are applied to the verdicts is not in it."""
    verifier = config.verifier
    names = ("model", "dtype", "system_prompt", "question", "verdicts", "instruction", "chat_template_kwargs")
    return with_digest(
        {
            "version": VERSION,
            "run.device": config.run.device,
            **{f"verifier.{name}": getattr(verifier, name) for name in names},
            "verifier.engines.engine_args": verifier.engines.engine_args,
            "model_files": model_files(verifier.model),
            **_clips(config),
        }
    )


def verdicts_of_the_user(config: Config) -> dict[str, object]:
    """The same for a verifier of the user's."""
    custom = config.verifier.custom
    code = read_source(custom_as_reward(custom), CUSTOM).code
    return with_digest(
        {
            "version": VERSION,
            "verifier.custom.path": custom.path,
            "code": hashlib.blake2b(code, digest_size=12).hexdigest(),
            **_clips(config),
        },
        unreadable=[custom.options, custom.runtime_env],
    )


def _clips(config: Config) -> dict[str, object]:
    return {f"data.{name}": getattr(config.data, name) for name in ("max_audio_s", "long_audio", "truncated_audio")}
