"""Qwen2-Audio's tower (arXiv 2407.10759): a Whisper encoder that attends over the whole clip, then pooling by two."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ssr1_rl.data.prompt import num_audio_tokens


class Qwen2AudioTower:
    """See `AudioTower`.

    transformers insists on 30 s of frames; the tower's own modules do not. Keys beyond a clip's
    end are masked, and the convolutions see the clip's own two margin frames, so the features are
    those of the 30 s pass (2.4e-7 apart in float32).
    """

    def __init__(self, model: Any) -> None:
        self._tower = model.model.audio_tower
        self._projector = model.model.multi_modal_projector

    @property
    def module(self) -> nn.Module:
        """See `AudioTower`."""
        return self._tower

    def set_trainable(self, train_tower: bool) -> None:
        """See `AudioTower`."""
        self._tower.requires_grad_(train_tower)
        # Fixed sinusoids; transformers forgets that they are when it loads a checkpoint.
        self._tower.embed_positions.requires_grad_(False)

    def encode(self, mel: Tensor, num_mel_frames: tuple[int, ...]) -> Tensor:
        """See `AudioTower`."""
        tower = self._tower
        hidden = gelu(tower.conv1(mel.to(tower.conv1.weight.dtype)))
        hidden = gelu(tower.conv2(hidden)).transpose(1, 2)
        lengths = [(n - 1) // 2 + 1 for n in num_mel_frames]
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
        return tower.layer_norm(hidden)[:, : max(map(num_audio_tokens, num_mel_frames))]

    def project(self, features: Tensor) -> Tensor:
        """See `AudioTower`."""
        return self._projector(features)
