"""The bridge to transformers: one function in its attention interface, so that model code is untouched."""

from collections.abc import Iterable, Mapping
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


REASONS = {
    "dropout": "with attention dropout",
    "s_aux": "with attention sinks",
    "sliding_window": "with sliding-window attention",
    "softcap": "with soft-capped attention scores",
}
"""What keywords of transformers' attention interface that change the result say of a model."""

IGNORED_BY_SDPA = {"softcap", "s_aux"}
"""Those that transformers' sdpa leaves out without a word."""

NEUTRAL = {"position_ids", "use_cache", "output_attentions", "is_causal"}
"""Keywords that change nothing, or are looked at apart."""


class InexactAttention(ValueError):
    """A model's attention is more than the one in use here. The message goes on from "a model …"."""


def use_packed_attention(backbone: Any) -> None:
    """Lets a transformers language model attend by the `PackedAttention` in `packing`, a keyword of its forward pass.

    Without that keyword it attends as ever.
    """
    from transformers import AttentionInterface

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
    """transformers' attention interface: [1, N, L, D] queries, keys and values -> [1, L, N, D].

    Raises:
        InexactAttention: the model asks for what would be left out.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    _refuse(kwargs, kwargs.keys() & IGNORED_BY_SDPA)
    if packing is not None:
        _refuse(kwargs, kwargs.keys() - NEUTRAL)
        if not kwargs.get("is_causal", getattr(module, "is_causal", True)):
            raise InexactAttention("that attends to later tokens")
        if attention_mask is not None:
            raise InexactAttention("that makes an attention mask of its own")
        if key.shape != value.shape:
            raise InexactAttention(f"with heads of {key.shape[-1]} in keys and {value.shape[-1]} in values")
        return packing(query, key, value, scaling), None
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def _refuse(kwargs: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in sorted(names):
        if isinstance(kwargs[name], Tensor) or kwargs[name]:
            raise InexactAttention(REASONS.get(name, f"whose attention takes {name}"))
