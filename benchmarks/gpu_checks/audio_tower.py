"""The audio tower of every family on the device, in the dtype and attention that learners use, against float32."""

import copy
from typing import Any

import torch

from gpu_checks.registry import need_gpus
from ssr1_rl.audio_families import AUDIO_FAMILIES
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.model.families import make_model

NUM_FRAMES = (100, 3, 1000, 417)
"""Mel frames of the clips."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}


def run(device: str) -> str:
    """Encodes clips of different lengths in one batch, and projects them."""
    if device == "cuda":
        need_gpus(1)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    attention = choose_attention("auto", device, str(dtype).removeprefix("torch.")).backend
    found = []
    for name, family in AUDIO_FAMILIES.items():
        torch.manual_seed(0)
        model = make_model(CONFIGS[name]()).eval()
        expected = embeddings(family, model.double(), "cpu")
        other = copy.deepcopy(model).to(device, dtype)
        flash = family.flash_tower and attention == "flash"
        if flash:
            family.tower(other).module.set_attn_implementation("flash_attention_2")
        error = relative_error(embeddings(family, other, device), expected)
        assert error < TOLERANCE[dtype], f"{name}: relative error {error}"
        found.append(f"{name}{' with flash-attn' * flash}: {error:.1e}")
    return f"relative error in {dtype}: {', '.join(found)}"


@torch.no_grad()
def embeddings(family: Any, model: Any, device: str) -> list[torch.Tensor]:
    """Every clip's embeddings [tokens, H]."""
    tower = family.tower(model)
    generator = torch.Generator().manual_seed(0)
    mel = torch.zeros(len(NUM_FRAMES), tower.num_channels, max(NUM_FRAMES) + family.margin)
    for clip, num_frames in zip(mel, NUM_FRAMES, strict=True):
        clip[:, : num_frames + family.margin] = torch.randn(
            tower.num_channels, num_frames + family.margin, generator=generator
        )
    projected = tower.project(tower.encode(mel.to(device), NUM_FRAMES))
    lengths = map(family.num_tokens, NUM_FRAMES)
    return [clip[:length] for clip, length in zip(projected, lengths, strict=True)]


def relative_error(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Of the clip that differs most."""
    pairs = zip(found, expected, strict=True)
    return max(float((x.double().cpu() - y.double()).norm() / y.double().norm()) for x, y in pairs)


TEXT = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "vocab_size": 600}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": False}
TOWER = {"d_model": 256, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 512}


def qwen2_audio() -> Any:
    from transformers import Qwen2AudioConfig

    return Qwen2AudioConfig(
        text_config={"model_type": "qwen2"} | TEXT | HEADS, audio_config={"num_mel_bins": 128} | TOWER
    )


def qwen2_5_omni() -> Any:
    from transformers import Qwen2_5OmniThinkerConfig

    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [8, 12, 12]}}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 256}
    return Qwen2_5OmniThinkerConfig(
        text_config=TEXT | HEADS | rope, audio_config=TOWER | {"output_dim": 256}, vision_config=vision
    )


CONFIGS = {"qwen2_audio": qwen2_audio, "qwen2_5_omni_thinker": qwen2_5_omni}
"""A small configuration of each family. A new family needs one."""
