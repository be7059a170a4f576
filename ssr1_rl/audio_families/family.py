"""Everything that the rest of the package may know about a family of models that hear or see.

A model reads clips: clips of audio, or images in their place. A clip reaches its tower as an input [channels, length]:
mel bins × frames, or the pixels of a square × squares. Of each input the tower makes a number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from ssr1_rl.types import SAMPLE_RATE

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class Tower(Protocol):
    """Runs a model's tower and the projector after it. Shapes: D `width`, H hidden size of the language model.

    `project(encode(...))` gives the embeddings of clips. The two are separate because a frozen tower always gives
    a clip the same output, while the projector is always trained.
    """

    num_channels: int  # of an input
    width: int  # of the output
    hidden_size: int  # of the layers
    num_layers: int
    positions_per_token: int  # positions in the layers for each token of the output

    @property
    def module(self) -> PreTrainedModel:
        """The model's tower."""
        ...

    def set_trainable(self, train_tower: bool) -> None:
        """Outside the language model, trains only the projector, and the tower if `train_tower`."""
        ...

    def encode(self, inputs: Tensor, input_lengths: tuple[int, ...]) -> Tensor:
        """The output [num_clips, most tokens, D] for inputs [num_clips, num_channels, most length], zero-padded.

        `input_lengths` are the inputs' lengths without the family's `margin` after them. A clip's output is in the
        first `num_tokens(input_length)` rows; the rows after them are padding.
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
class Family:
    """A family of models that read clips or images beside text."""

    model_type: str  # config.model_type of the model that is trained
    model_class: str  # its class in transformers
    backbone: str  # path, in the model, of the language model without its head
    tower: Callable[[PreTrainedModel], Tower]  # makes the `Tower` of a model of this family
    flash_tower: bool = False  # whether the tower's layers can use FlashAttention when Tower.encode calls them
    part_of_whole: str = ""  # field of a larger model's configuration that holds this model's; empty if there is none
    published_prefixes: tuple[tuple[str, str], ...]  # (in memory, in checkpoints); the first that fits applies
    placeholder_field: str  # field of the configuration with the token id of a clip's placeholder
    num_tokens: Callable[[int], int]  # length of an input -> tokens that the tower makes of it
    min_length: int  # the shortest input, which makes one token
    margin: int  # values of every channel after an input's end that the tower reads too

    def placeholder_id(self, config: PretrainedConfig) -> int:
        """Token id of the placeholder that stands for a clip."""
        return getattr(config, self.placeholder_field)

    def published_name(self, name: str) -> str:
        """The name, in published checkpoints, of the parameter `name` in memory."""
        for prefix, published in self.published_prefixes:
            if name.startswith(prefix):
                return published + name.removeprefix(prefix)
        raise AssertionError(f"{self.model_type} has no parameter {name}")


@dataclass(frozen=True, kw_only=True)
class AudioFamily(Family):
    """A family of audio-language models. Defaults are those of Whisper's encoder followed by pooling.

    An input is a log-mel spectrogram, its length the number of mel frames.
    """

    placeholder_field: str = "audio_token_id"
    num_tokens: Callable[[int], int] = after_pooling
    min_length: int = 3
    margin: int = 2
    hop_length: int = 160  # samples from one mel frame to the next
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
        return self.num_tokens(self.num_mel_frames(num_samples))


@dataclass(frozen=True, kw_only=True)
class VisionFamily(Family):
    """A family of vision-language models whose images are all scaled to one square.

    An input holds the squares of pixels that become one token each, its length is their number.
    """

    placeholder_field: str = "image_token_id"
    num_tokens: Callable[[int], int] = int
    min_length: int = 1
    margin: int = 0
    square_size: Callable[[PretrainedConfig], int]  # edge in pixels of a square of the image that becomes one token
    around_image: tuple[str, str]  # tokens that engines add before and after the tokens of an image

    def image_size(self, config: PretrainedConfig) -> int:
        """Edge in pixels of the square to which every image is scaled."""
        return config.vision_config.image_size

    def image_tokens(self, config: PretrainedConfig) -> int:
        """Number of tokens that the tower makes of an image."""
        return (self.image_size(config) // self.square_size(config)) ** 2
