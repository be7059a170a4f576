"""Idefics3 (arXiv 2408.12637): SigLIP over patches of an image; squares of patches become one token each.

Images are not split into tiles: each one is scaled to the size that the tower reads.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ssr1_rl.audio_families.family import VisionFamily

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.models.idefics3.modeling_idefics3 import (
        Idefics3Connector,
        Idefics3VisionEmbeddings,
        Idefics3VisionTransformer,
    )


def square_size(config: PretrainedConfig) -> int:
    """Edge in pixels of the square of patches that becomes one token."""
    return config.scale_factor * config.vision_config.patch_size


class Idefics3Tower:
    """Runs the vision transformer on whole images, and joins the patches of each square.

    The positions of patches are counted. transformers computes them from fractions, which bfloat16 rounds to other
    positions; vLLM computes them in float32, which gives these.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = cast("Idefics3VisionTransformer", model.get_submodule("model.vision_model"))
        self._connector = cast("Idefics3Connector", model.get_submodule("model.connector"))
        self._embeddings = cast("Idefics3VisionEmbeddings", self.module.embeddings)
        vision = self.module.config
        self._square_size = square_size(model.config)
        self.positions_per_token = model.config.scale_factor**2
        self.num_channels = vision.num_channels * self._square_size**2
        self.hidden_size = vision.hidden_size
        self.width = self.positions_per_token * vision.hidden_size
        self.num_layers = vision.num_hidden_layers

    def set_trainable(self, train_tower: bool) -> None:
        self.module.requires_grad_(train_tower)

    def encode(self, inputs: Tensor, input_lengths: tuple[int, ...]) -> Tensor:
        tower = self.module
        assert len(set(input_lengths)) == 1, "all images have the same size"
        squares = inputs.to(tower.dtype).unflatten(1, (-1, self._square_size, self._square_size))
        squares = squares.unflatten(-1, (isqrt(input_lengths[0]),) * 2)
        # [images, colours, row in square, column in square, row of squares, column of squares] -> whole images
        pixels = squares.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        patches = self._embeddings.patch_embedding(pixels)
        side = torch.arange(patches.shape[-1], device=patches.device)
        positions = side[:, None] * self._embeddings.num_patches_per_side + side
        hidden = patches.flatten(2).transpose(1, 2) + self._embeddings.position_embedding(positions.flatten())
        for layer in tower.encoder.layers:
            hidden = layer(hidden, None)
        hidden = tower.post_layernorm(hidden)
        return self._connector.pixel_shuffle(hidden, self._connector.scale_factor)

    def project(self, features: Tensor) -> Tensor:
        return self._connector.modality_projection(features)


IDEFICS3 = VisionFamily(
    model_type="idefics3",
    model_class="Idefics3ForConditionalGeneration",
    backbone="model.text_model",
    tower=Idefics3Tower,
    published_prefixes=(("model.", "model."), ("lm_head.", "lm_head.")),
    square_size=square_size,
    around_image=("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
)
