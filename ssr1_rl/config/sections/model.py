"""The policy and its adapters."""

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

from ssr1_rl.config.setting import setting


@dataclass
class LoraConfig:
    """Low-rank adapters (LoRA, arXiv 2106.09685): only they are trained, the policy itself is frozen."""

    rank: int = setting(0, ge=0)
    """Rank of the adapters. 0: no adapters, the policy itself is trained."""
    alpha: float = setting(32.0, gt=0)
    """An adapter's output is multiplied by alpha / rank."""
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter, by the end of their names. Each name must match a layer."""


@dataclass
class ModelConfig:
    """The policy."""

    path: str = setting(MISSING, filled=True, shown=True)
    """Hugging Face folder, or hub name, of the starting policy."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Dtype in which learners and engines compute."""
    float32_head: bool = False
    """Compute logits in float32 from the bfloat16 hidden states and weights, in learners and engines (ScaleRL)."""
    train_audio_tower: bool = False
    """Train the audio tower too, not only the projector and the language model. With LoRA: put adapters into it."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    attn_implementation: Literal["auto", "flash", "flex", "sdpa"] = "auto"
    """Attention of the learner: `flash` (the package flash-attn; GPUs, bfloat16), `flex` (torch's FlexAttention; GPUs)
    or `sdpa` (everywhere). `auto`: the first of these that can run."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass, to save memory."""
