"""Makes the input of programs that measure the learner's pass: a random Qwen2-Audio, groups of random tokens.

Shapes: P prompt tokens, G responses, R tokens of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.trainer.batches.rows import MicroBatch, Row, collate
from ssr1_rl.trainer.model.families import make_model

MEL_BINS = 128
WINDOW_FRAMES = 3000
"""Mel frames of 30 s, the length that clips are padded to."""
TOWER_HEAD_SIZE = 64


@dataclass(frozen=True)
class ModelSizes:
    """The sizes in which the Qwen2-Audio models of these programs differ."""

    layers: int
    hidden_size: int
    intermediate_size: int
    head_size: int
    key_value_heads: int
    vocab_size: int
    tower_layers: int
    tower_size: int


def random_qwen2_audio(sizes: ModelSizes, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model with random weights, made on the device. Its audio placeholder is the last token of the vocabulary."""
    from transformers import Qwen2AudioConfig

    config = Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.intermediate_size,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.hidden_size // sizes.head_size,
            "num_key_value_heads": sizes.key_value_heads,
            "vocab_size": sizes.vocab_size,
            "tie_word_embeddings": False,
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "d_model": sizes.tower_size,
            "encoder_layers": sizes.tower_layers,
            "encoder_attention_heads": sizes.tower_size // TOWER_HEAD_SIZE,
            "encoder_ffn_dim": 4 * sizes.tower_size,
        },
        audio_token_index=sizes.vocab_size - 1,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return make_model(config).eval()
    finally:
        torch.set_default_dtype(default)


@dataclass(frozen=True)
class Group:
    """A prompt [P], its clip's mel frames [128, 3000], how many of them are real (0: no clip), responses [G, R]."""

    prompt: Tensor
    mel: Tensor
    num_frames: int
    responses: Tensor


def random_group(vocab_size: int, text_tokens: int, num_frames: int, group_size: int, response_tokens: int) -> Group:
    """A group from torch's global generator; in the prompt, text comes before the clip."""
    placeholder = vocab_size - 1
    num_audio = QWEN2_AUDIO.num_tokens(num_frames) if num_frames else 0
    text = torch.randint(placeholder, (text_tokens,))
    return Group(
        torch.cat([text, torch.full((num_audio,), placeholder)]),
        torch.randn(MEL_BINS, WINDOW_FRAMES),
        num_frames,
        torch.randint(placeholder, (group_size, response_tokens)),
    )


def micro_batch(groups: Sequence[Group], placeholder: int, packed: bool) -> MicroBatch:
    """The groups as the learner packs them; if not `packed`, with a prompt and a clip for every response."""
    rows = []
    for number, group in enumerate(groups):
        shared = tuple(group.prompt.tolist())
        for index, response in enumerate(map(tuple, group.responses.tolist())):
            # An equal tuple that is another object counts as another prompt.
            prompt, clip = (shared, (number, 0)) if packed else ((*shared,), (number, index))
            clips, lengths = (), ()
            if group.num_frames:
                clips, lengths = (clip,), (QWEN2_AUDIO.num_tokens(group.num_frames),)
            logprobs = (0.0,) * len(response)
            rows.append(Row(prompt, clips, response, logprobs, 1.0, True, num_audio_tokens=lengths))

    def mel_of(clip: tuple[int, int]) -> tuple[Any, Tensor, int]:
        group = groups[clip[0]]
        return clip, group.mel[:, : group.num_frames + QWEN2_AUDIO.margin], group.num_frames

    return collate(rows, placeholder, mel_of, MEL_BINS)
