"""The thinker of Qwen2.5-Omni (arXiv 2503.20215): its audio tower attends within windows of two seconds."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.functional import gelu
from torch.nn.utils.rnn import pad_sequence

from ssr1_rl.audio_families.family import AudioFamily, after_convolutions

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder


class Qwen2_5OmniTower:
    """Encodes each window separately, with positions from 0; the margin after a clip is not read.

    The projector is the tower's last layer, `proj`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.module = cast("Qwen2_5OmniAudioEncoder", model.get_submodule("audio_tower"))
        self.num_channels = self.module.config.num_mel_bins
        self.width = self.hidden_size = self.module.config.d_model
        self.num_layers = self.module.config.encoder_layers
        self.positions_per_token = 2
        self._vision_tower = model.get_submodule("visual")

    def set_trainable(self, train_tower: bool) -> None:
        # No input has images.
        self._vision_tower.requires_grad_(False)
        self.module.requires_grad_(train_tower)
        self.module.proj.requires_grad_(True)
        # Every checkpoint has it, but no forward pass reads it.
        self.module.audio_bos_eos_token.requires_grad_(False)

    def encode(self, inputs: Tensor, input_lengths: tuple[int, ...]) -> Tensor:
        tower = self.module
        clips = [mel[:, :num_frames].T for mel, num_frames in zip(inputs, input_lengths, strict=True)]
        windows = [window for clip in clips for window in clip.split(2 * tower.n_window)]
        padded = pad_sequence(windows, batch_first=True).transpose(1, 2).to(tower.dtype)
        lengths = torch.tensor([len(window) for window in windows], device=inputs.device)
        inside = torch.arange(padded.shape[-1], device=inputs.device) < lengths[:, None]
        # The first convolution leaves its bias beyond a window's end; the second one must read zeros there.
        hidden = gelu(tower.conv1(padded)) * inside[:, None]
        hidden = gelu(tower.conv2(hidden)).transpose(1, 2)
        hidden = hidden + tower.positional_embedding(hidden.shape[1]).to(hidden.dtype)
        sizes = [after_convolutions(len(window)) for window in windows]
        flat = torch.cat([window[:size] for window, size in zip(hidden, sizes, strict=True)])
        bounds = torch.tensor([0, *accumulate(sizes)], dtype=torch.int32, device=inputs.device)
        for layer in tower.layers:
            (flat,) = layer(flat, cu_seqlens=bounds, max_seqlen=max(sizes))
        # All windows but a clip's last one have an even number of frames, so their positions add up to the clip's.
        parts = flat.split([after_convolutions(len(clip)) for clip in clips])
        pooled = tower.avg_pooler(pad_sequence(list(parts), batch_first=True).transpose(1, 2)).transpose(1, 2)
        return tower.ln_post(pooled)

    def project(self, features: Tensor) -> Tensor:
        return self.module.proj(features)


QWEN2_5_OMNI = AudioFamily(
    model_type="qwen2_5_omni_thinker",
    model_class="Qwen2_5OmniThinkerForConditionalGeneration",
    backbone="model",
    tower=Qwen2_5OmniTower,
    flash_tower=True,
    part_of_whole="thinker_config",
    # Checkpoints also hold the talker and the speech decoder.
    published_prefixes=(("", "thinker."),),
)
