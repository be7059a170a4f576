"""Clip -> the input that a model's tower reads, of whatever kind the tower is."""

from typing import Protocol

import numpy as np
from transformers import AutoConfig

from ssr1_rl.audio_families import Family, trained_config, vision_family_of
from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.data.pixels import PixelExtractor


class Extractor(Protocol):
    """Computes the inputs of one model's tower."""

    @property
    def family(self) -> Family:
        """The model's family."""
        ...

    def input_length(self, clip: np.ndarray, /) -> int:
        """The length of a clip's input without the family's margin."""
        ...

    def __call__(self, clip: np.ndarray, /) -> np.ndarray:
        """A waveform or an image -> its input, float32 [num_channels, length + margin]."""
        ...


def extractor_of(model_path: str) -> Extractor:
    """The extractor of the model in `model_path`.

    Raises:
        UserError: the model reads neither clips nor images, or has settings that are not supported.
    """
    config = trained_config(AutoConfig.from_pretrained(model_path))
    return PixelExtractor(model_path) if vision_family_of(config) else MelExtractor(model_path)
