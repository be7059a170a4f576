"""What a model's answers depend on beside the questions: answers of another fingerprint are not used again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from ssr1_rl.config.environment import as_written, plain
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig

NOT_OF_PROMPTS = ("train", "validation", "max_skipped_share", "require_audio", "audio_cache_mib")
"""Settings of `data` that do not change what a model reads."""


def fingerprint(model_path: str, config: Config) -> dict[str, object]:
    """In values that JSON holds. Text of the environment is in the digest and, as it is written, readable."""
    evaluation = config.evaluation
    readable: dict[str, object] = {
        "model": model_path,
        "model_files": _files(Path(model_path)),
        "dtype": evaluation.dtype,
        "device": config.run.device,
        "engine_args": evaluation.engines.engine_args,
        "max_response_tokens": evaluation.max_response_tokens,
        **prompt_settings(config.data),
    }
    digest = hashlib.blake2b(json.dumps(plain(readable), sort_keys=True).encode(), digest_size=12).hexdigest()
    written = as_written(readable)
    assert isinstance(written, dict), "a mapping stays one"
    return {**written, "digest": digest}


def prompt_settings(data: DataConfig) -> dict[str, object]:
    """The settings that say what a model reads of a question."""
    return {f"data.{k}": v for k, v in dataclasses.asdict(data).items() if k not in NOT_OF_PROMPTS}


def _files(folder: Path) -> str:
    """Changes when any file of a model folder does; empty for a name on the hub."""
    found = sorted((path.name, path.stat()) for path in folder.iterdir()) if folder.is_dir() else []
    text = json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in found])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest() if found else ""
