"""Families of audio-language models; the file of a family holds all that is special about it.

What holds for every model of transformers, text-only ones included, is in `trainer/model`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ssr1_rl.audio_families.family import AudioFamily
from ssr1_rl.audio_families.qwen2_5_omni import QWEN2_5_OMNI
from ssr1_rl.audio_families.qwen2_audio import QWEN2_AUDIO

if TYPE_CHECKING:
    from transformers import PretrainedConfig

AUDIO_FAMILIES: dict[str, AudioFamily] = {
    QWEN2_AUDIO.model_type: QWEN2_AUDIO,
    QWEN2_5_OMNI.model_type: QWEN2_5_OMNI,
}
"""Families by `config.model_type`. A new family needs a file beside this one and a line here."""


def trained_config(config: PretrainedConfig) -> PretrainedConfig:
    """The configuration of the part that is trained: Qwen2.5-Omni's thinker, or else the whole model."""
    for family in AUDIO_FAMILIES.values():
        if family.part_of_whole and hasattr(config, family.part_of_whole):
            return getattr(config, family.part_of_whole)
    return config


def audio_family_of(config: PretrainedConfig) -> AudioFamily | None:
    """The family of a model, by the configuration of its trained part; None for a text-only model."""
    return AUDIO_FAMILIES.get(config.model_type)
