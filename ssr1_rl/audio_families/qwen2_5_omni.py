"""The audio tower of Qwen2.5-Omni's thinker (arXiv 2503.20215): attention within windows of two seconds."""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu
from torch.nn.utils.rnn import pad_sequence


class Qwen2_5OmniTower:
    """See `AudioTower`. Each window is encoded by itself, its positions from 0; the margin behind a clip is not read.

    The projector is the tower's last layer, `proj`. It is trained even when the tower is not, as
    Qwen2-Audio's is.
    """

    def __init__(self, model: Any) -> None:
        self._tower = model.audio_tower
        self._visual = model.visual

    @property
    def module(self) -> nn.Module:
        """See `AudioTower`."""
        return self._tower

    def set_trainable(self, train_tower: bool) -> None:
        """See `AudioTower`. Nothing here looks at images, so the vision tower is frozen."""
        self._visual.requires_grad_(False)
        self._tower.requires_grad_(train_tower)
        self._tower.proj.requires_grad_(True)
        # In every checkpoint, and read by no forward pass.
        self._tower.audio_bos_eos_token.requires_grad_(False)

    def encode(self, mel: Tensor, num_mel_frames: tuple[int, ...]) -> Tensor:
        """See `AudioTower`."""
        tower = self._tower
        clips = [clip[:, :num_frames].T for clip, num_frames in zip(mel, num_mel_frames, strict=True)]
        windows = [window for clip in clips for window in clip.split(2 * tower.n_window)]
        padded = pad_sequence(windows, batch_first=True).transpose(1, 2).to(tower.conv1.weight.dtype)
        lengths = torch.tensor([len(window) for window in windows], device=mel.device)
        inside = torch.arange(padded.shape[-1], device=mel.device) < lengths[:, None]
        # The second convolution is to see nothing beyond a window's end, where the first one left its bias.
        hidden = gelu(tower.conv1(padded)) * inside[:, None]
        hidden = gelu(tower.conv2(hidden)).transpose(1, 2)
        hidden = hidden + tower.positional_embedding(hidden.shape[1]).to(hidden.dtype)
        sizes = [_halved(len(window)) for window in windows]
        flat = torch.cat([window[:size] for window, size in zip(hidden, sizes, strict=True)])
        bounds = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=mel.device)
        for layer in tower.layers:
            (flat,) = layer(flat, cu_seqlens=bounds, max_seqlen=max(sizes))
        parts = flat.split([_halved(len(clip)) for clip in clips])
        pooled = tower.avg_pooler(pad_sequence(list(parts), batch_first=True).transpose(1, 2)).transpose(1, 2)
        return tower.ln_post(pooled)

    def project(self, features: Tensor) -> Tensor:
        """See `AudioTower`."""
        return self._tower.proj(features)


def _halved(num_frames: int) -> int:
    """Positions that the second convolution leaves of so many frames; windows are even, so their sum is the clip's."""
    return (num_frames - 1) // 2 + 1
