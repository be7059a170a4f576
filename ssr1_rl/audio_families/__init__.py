"""Audio towers: how each family of audio-language models turns a clip's log-mel into embeddings.

transformers pads every clip to 30 s or hides the tower behind a whole forward pass; these drive the
tower's own modules on the frames that clips have. Weights stay in the model: a tower here owns none.
"""

from typing import Any, Protocol

from torch import Tensor, nn


class AudioTower(Protocol):
    """One model's audio tower and the projector behind it. Shapes: D tower width, H hidden size of the language model.

    `project(encode(...))` are the embeddings. They are apart because a frozen tower gives a clip the
    same output for ever, whereas the projector is always trained.
    """

    def __init__(self, model: Any) -> None: ...

    @property
    def module(self) -> nn.Module:
        """The model's tower."""
        ...

    def set_trainable(self, train_tower: bool) -> None:
        """Says which parameters outside the language model get a gradient: the projector, and the tower if wanted."""
        ...

    def encode(self, mel: Tensor, num_mel_frames: tuple[int, ...]) -> Tensor:
        """The tower's output [num_clips, most features, D].

        Args:
            mel: log-mel [num_clips, num_mel_bins, frames], zero-padded; `CONV_MARGIN_FRAMES` behind each clip.
            num_mel_frames: frames of each clip, without margin. A clip's features are the first
                `num_audio_tokens` of them; what stands behind those means nothing.
        """
        ...

    def project(self, features: Tensor) -> Tensor:
        """[..., D] -> [..., H]."""
        ...
