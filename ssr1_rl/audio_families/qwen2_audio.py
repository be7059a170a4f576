"""Qwen2-Audio (arXiv 2407.10759): a Whisper encoder that attends over the whole clip, then pooling by two."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import gelu

from ssr1_rl.audio_families.family import AudioFamily, after_convolutions, after_pooling

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.qwen2_audio.modeling_qwen2_audio import Qwen2AudioEncoder


class Qwen2AudioTower:
    """Runs the encoder on only the frames that clips have, while transformers requires 30 s of them.

    Keys beyond a clip's end are masked, and the convolutions read the clip's own margin frames, so
    the output is that of the 30 s pass (within 2.4e-7 in float32).
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = cast("Qwen2AudioEncoder", model.get_submodule("model.audio_tower"))
        self.num_channels = self.module.config.num_mel_bins
        self.width = self.hidden_size = self.module.config.d_model
        self.num_layers = self.module.config.encoder_layers
        self.positions_per_token = 2
        self._projector = model.get_submodule("model.multi_modal_projector")

    def set_trainable(self, train_tower: bool) -> None:
        self.module.requires_grad_(train_tower)
        # Fixed sinusoids, which transformers makes trainable when it loads a checkpoint.
        self.module.embed_positions.requires_grad_(False)

    def encode(self, inputs: Tensor, input_lengths: tuple[int, ...]) -> Tensor:
        tower = self.module
        hidden = gelu(tower.conv1(inputs.to(tower.dtype)))
        hidden = gelu(tower.conv2(hidden)).transpose(1, 2)
        lengths = [after_convolutions(num_frames) for num_frames in input_lengths]
        positions = torch.arange(max(lengths), device=hidden.device)
        hidden = hidden[:, : len(positions)] + tower.embed_positions(positions)
        mask = None
        if min(lengths) < max(lengths):
            padding = positions[None, :] >= torch.tensor(lengths, device=hidden.device)[:, None]
            mask = hidden.new_zeros(padding.shape).masked_fill(padding, torch.finfo(hidden.dtype).min)
            mask = mask[:, None, None, :].expand(-1, 1, len(positions), -1)
        for layer in tower.layers:
            hidden = layer(hidden, attention_mask=mask)
        hidden = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        return tower.layer_norm(hidden)[:, : max(map(after_pooling, input_lengths))]

    def project(self, features: Tensor) -> Tensor:
        return self._projector(features)


QWEN2_AUDIO = AudioFamily(
    model_type="qwen2_audio",
    model_class="Qwen2AudioForConditionalGeneration",
    backbone="model.language_model",
    tower=Qwen2AudioTower,
    published_prefixes=(
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
)
