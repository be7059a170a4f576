"""What verdicts depend on beside the chains and the clips: answers of another fingerprint are not used again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ssr1_rl.checks.verifier_rules import CUSTOM, custom_as_reward
from ssr1_rl.config.environment import as_written, plain
from ssr1_rl.config.schema import Config
from ssr1_rl.rewards.load import read_source

VERSION = 1
"""Rises when the same settings make other requests."""


def verdicts_of_a_model(config: Config) -> dict[str, object]:
    """In values that JSON holds. Which rule and threshold are applied to the verdicts is not in it."""
    verifier = config.verifier
    names = ("model", "dtype", "system_prompt", "question", "verdicts", "instruction", "chat_template_kwargs")
    return _with_digest(
        {
            "version": VERSION,
            "run.device": config.run.device,
            **{f"verifier.{name}": getattr(verifier, name) for name in names},
            "verifier.engines.engine_args": verifier.engines.engine_args,
            "model_files": _files(Path(verifier.model)),
            **_clips(config),
        }
    )


def verdicts_of_the_user(config: Config) -> dict[str, object]:
    """The same for a verifier of the user's."""
    custom = config.verifier.custom
    code = read_source(custom_as_reward(custom), CUSTOM).code
    return _with_digest(
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


def _with_digest(readable: dict[str, object], unreadable: object = None) -> dict[str, object]:
    """Settings as they are written, and a digest of their values and of what may be secret."""
    written = as_written(readable)
    assert isinstance(written, dict), "a mapping stays one"
    text = json.dumps(plain([readable, unreadable]), sort_keys=True, default=repr)
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    return {**written, "digest": digest.hexdigest()}


def _files(folder: Path) -> str:
    """Changes when any file of a model folder does; empty for a name on the hub."""
    found = sorted((path.name, path.stat()) for path in folder.iterdir()) if folder.is_dir() else []
    text = json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in found])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest() if found else ""
