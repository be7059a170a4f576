"""Image -> the squares of pixels that a model's vision tower reads: its input."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import unfold
from transformers import AutoConfig, AutoImageProcessor

from ssr1_rl.audio_families import trained_config, vision_family_of
from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil


class PixelExtractor:
    """Scales and normalises images as the model's own image processor does, and cuts them into squares.

    Attributes:
        family: the model's vision family.
    """

    def __init__(self, model_path: str) -> None:
        config = trained_config(AutoConfig.from_pretrained(model_path))
        family = vision_family_of(config)
        if family is None:
            raise UserError(f"{model_path} has no vision tower; use a vision-language model")
        processor: Idefics3ImageProcessorPil = AutoImageProcessor.from_pretrained(model_path)
        if processor.do_image_splitting:
            raise UserError(
                f"{model_path}: its image processor splits images into tiles, and only whole images are supported; "
                "set do_image_splitting to false in its processor_config.json or preprocessor_config.json"
            )
        self.family = family
        self._processor = processor
        self._square_size, self._num_tokens = family.square_size(config), family.image_tokens(config)
        image_size, scaled = family.image_size(config), processor.max_image_size["longest_edge"]
        if scaled != image_size:
            raise UserError(
                f"{model_path}: its image processor scales images to {scaled} pixels and its vision tower reads "
                f"{image_size}; set max_image_size to that in processor_config.json or preprocessor_config.json"
            )

    def input_length(self, image: np.ndarray) -> int:
        """Squares of an image: the same number for any image."""
        return self._num_tokens

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """uint8 [height, width, 3] -> float32 [3 × square_size², num_squares], squares row by row."""
        found = self._processor([image], input_data_format="channels_last", return_tensors="pt")
        pixels = torch.as_tensor(found["pixel_values"], dtype=torch.float32)[0]
        return unfold(pixels, self._square_size, stride=self._square_size)[0].numpy()
