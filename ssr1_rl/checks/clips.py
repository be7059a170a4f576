"""Refuses settings of clips that the model cannot read, and an installation that cannot decode clips."""

from transformers import AutoConfig

from ssr1_rl.audio_families import audio_family_of, trained_config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import check_decoders
from ssr1_rl.errors import ConfigError

__all__ = ["check_clip_length", "check_decoders"]


def check_clip_length(data: DataConfig, model_path: str) -> None:
    """Refuses clips longer than the model's audio tower reads: engine and learner would hear different parts.

    Raises:
        ConfigError: with the longest clip of this model.
    """
    family = audio_family_of(trained_config(AutoConfig.from_pretrained(model_path)))
    if family and data.max_audio_s > family.max_clip_s:
        raise ConfigError(
            f"data.max_audio_s must be at most {family.max_clip_s:g} with {family.model_type} (its audio tower reads "
            f"no more), got {data.max_audio_s:g}"
        )
