"""Everything that the rest of the package may know about a family of audio-language models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ssr1_rl.types import SAMPLE_RATE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class AudioTower(Protocol):
    """Runs a model's audio tower and the projector after it. Shapes: D `width`, H hidden size of the language model.

    `project(encode(...))` gives the embeddings of clips. The two are separate because a frozen tower always gives
    a clip the same output, while the projector is always trained.
    """

    num_mel_bins: int
    width: int
    num_layers: int

    @property
    def module(self) -> PreTrainedModel:
        """The model's tower."""
        ...

    def set_trainable(self, train_tower: bool) -> None:
        """Outside the language model, trains only the projector, and the tower if `train_tower`."""
        ...

    def encode(self, mel: Tensor, num_mel_frames: tuple[int, ...]) -> Tensor:
        """The output [num_clips, most audio tokens, D] for log-mel [num_clips, num_mel_bins, frames], zero-padded.

        `num_mel_frames` are each clip's frames without the `margin_frames` after it. A clip's output is in the first
        `num_audio_tokens(num_mel_frames)` rows; the rows after them are padding.
        """
        ...

    def project(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., H]."""
        ...


def after_convolutions(num_mel_frames: int) -> int:
    """Positions after Whisper's two convolutions, of which the second has stride 2."""
    return (num_mel_frames - 1) // 2 + 1


def after_pooling(num_mel_frames: int) -> int:
    """Positions after Whisper's convolutions and a pooling of two positions into one."""
    return (after_convolutions(num_mel_frames) - 2) // 2 + 1


@dataclass(frozen=True, kw_only=True)
class AudioFamily:
    """A family of audio-language models. Defaults are those of Whisper's encoder followed by pooling."""

    model_type: str  # config.model_type of the model that is trained
    model_class: str  # its class in transformers
    backbone: str  # path, in the model, of the language model without its head
    tower: Callable[[PreTrainedModel], AudioTower]  # makes the `AudioTower` of a model of this family
    flash_tower: bool = False  # whether the tower's layers can use FlashAttention when AudioTower.encode calls them
    part_of_whole: str = ""  # field of a larger model's configuration that holds this model's; empty if there is none
    published_prefixes: tuple[tuple[str, str], ...]  # (in memory, in checkpoints); the first that fits applies
    placeholder_field: str = "audio_token_id"  # field of the configuration with the audio placeholder's token id
    num_audio_tokens: Callable[[int], int] = after_pooling  # mel frames -> tokens that the tower makes of them
    positions_per_token: int = 2  # positions in the tower's layers for each of these tokens
    hop_length: int = 160  # samples from one mel frame to the next
    min_mel_frames: int = 3  # frames of the shortest clip, which makes one token
    margin_frames: int = 2  # frames after a clip's end that the tower's convolutions read
    max_clip_s: float = 30.0  # longest clip; the rest of a longer one is ignored

    @property
    def max_mel_frames(self) -> int:
        """Mel frames of the longest clip."""
        return round(self.max_clip_s * SAMPLE_RATE / self.hop_length)

    def num_mel_frames(self, num_samples: int) -> int:
        """Mel frames of a clip: the ones in the attention mask of transformers' processor, and so of vLLM."""
        return min(-(-num_samples // self.hop_length), self.max_mel_frames)

    def clip_tokens(self, num_samples: int) -> int:
        """Number of tokens that the tower makes of a clip of `num_samples`."""
        return self.num_audio_tokens(self.num_mel_frames(num_samples))

    def placeholder_id(self, config: PretrainedConfig) -> int:
        """Token id of the placeholder that stands for a clip."""
        return getattr(config, self.placeholder_field)

    def published_name(self, name: str) -> str:
        """The name, in published checkpoints, of the parameter `name` in memory."""
        for prefix, published in self.published_prefixes:
            if name.startswith(prefix):
                return published + name.removeprefix(prefix)
        raise AssertionError(f"{self.model_type} has no parameter {name}")
