"""What a model's answers depend on beside the questions: answers of another fingerprint are not used again."""

from __future__ import annotations

import dataclasses

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.inference.depends_on import model_files, with_digest

NOT_OF_PROMPTS = ("train", "validation", "max_skipped_share", "require_audio", "audio_cache_mib")
"""Settings of `data` that do not change what a model reads."""


def fingerprint(model_path: str, config: Config) -> dict[str, object]:
    """In values that JSON holds. Text of the environment is in the digest and, as it is written, readable."""
    evaluation = config.evaluation
    return with_digest(
        {
            "model": model_path,
            "model_files": model_files(model_path),
            "dtype": evaluation.dtype,
            "device": config.run.device,
            "engine_args": evaluation.engines.engine_args,
            "max_response_tokens": evaluation.max_response_tokens,
            **prompt_settings(config.data),
        }
    )


def prompt_settings(data: DataConfig) -> dict[str, object]:
    """The settings that say what a model reads of a question."""
    return {f"data.{k}": v for k, v in dataclasses.asdict(data).items() if k not in NOT_OF_PROMPTS}
