"""Families of audio-language models, and of a vision-language one; the file of a family holds all that is special.

What holds for every model of transformers, text-only ones included, is in `trainer/model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssr1_rl.audio_families.family import AudioFamily, Family, VisionFamily
from ssr1_rl.audio_families.idefics3 import IDEFICS3
from ssr1_rl.audio_families.qwen2_5_omni import QWEN2_5_OMNI
from ssr1_rl.audio_families.qwen2_audio import QWEN2_AUDIO

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AUDIO_FAMILIES: dict[str, AudioFamily] = {
    QWEN2_AUDIO.model_type: QWEN2_AUDIO,
    QWEN2_5_OMNI.model_type: QWEN2_5_OMNI,
}
"""Families that hear, by `config.model_type`. A new family needs a file beside this one and a line here."""

VISION_FAMILIES: dict[str, VisionFamily] = {IDEFICS3.model_type: IDEFICS3}
"""Families that see, by `config.model_type`: they are trained as teachers."""

FAMILIES: dict[str, Family] = {**AUDIO_FAMILIES, **VISION_FAMILIES}


def trained_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the part that is trained: Qwen2.5-Omni's thinker, or else the whole model."""
    for family in FAMILIES.values():
        if family.part_of_whole and hasattr(config, family.part_of_whole):
            return getattr(config, family.part_of_whole)
    return config


def family_of(config: PretrainedConfig) -> Family | None:
    """The family of a model, by the configuration of its trained part; None for a text-only model."""
    return FAMILIES.get(config.model_type)


def audio_family_of(config: PretrainedConfig) -> AudioFamily | None:
    """The family of a model that hears; None for one that does not."""
    return AUDIO_FAMILIES.get(config.model_type)


def vision_family_of(config: PretrainedConfig) -> VisionFamily | None:
    """The family of a model that sees; None for one that does not."""
    return VISION_FAMILIES.get(config.model_type)
