"""The bridge to transformers: one function in its attention interface, so that model code is untouched."""

from typing import Any

from torch import Tensor

from ssr1_rl.trainer.attention import PackedAttention
from ssr1_rl.trainer.attention.flash import FlashAttention
from ssr1_rl.trainer.attention.flex import FlexAttention
from ssr1_rl.trainer.attention.sdpa import SdpaAttention

NAME = "ssr1_rl_prefix_packing"
"""What transformers knows the function as. Without "flash" in it, which transformers looks for."""

BACKENDS: dict[str, type[PackedAttention]] = {"flash": FlashAttention, "flex": FlexAttention, "sdpa": SdpaAttention}

TRANSFORMERS_NAMES = {"flash": "flash_attention_2", "flex": "flex_attention", "sdpa": "sdpa"}
"""What transformers calls its own attention of each kind, for rows that are not packed."""


def use_packed_attention(backbone: Any) -> None:
    """Lets a transformers language model attend by the `PackedAttention` in `packing`, a keyword of its forward pass.

    Without that keyword it attends as ever.

    Raises:
        ValueError: the model has sliding-window layers, whose attention this is not.
    """
    from transformers import AttentionInterface

    if "sliding_attention" in (getattr(backbone.config, "layer_types", None) or ()):
        raise ValueError(
            f"model.path names a {backbone.config.model_type} model with sliding-window attention, which prefix "
            "packing cannot serve exactly; set learner.prefix_packing: false"
        )

    AttentionInterface.register(NAME, _attend)
    backbone.config._attn_implementation = NAME


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: PackedAttention | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, N, L, D] queries, keys and values -> [1, L, N, D]."""
    if packing is not None:
        return packing(query, key, value, scaling), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
