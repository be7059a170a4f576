"""Registers packed attention as one function of transformers' attention interface, so that model code is unchanged."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ssr1_rl.errors import UserError
from ssr1_rl.trainer.attention import PackedAttention
from ssr1_rl.trainer.attention.flash import FlashAttention
from ssr1_rl.trainer.attention.flex import FlexAttention
from ssr1_rl.trainer.attention.sdpa import SdpaAttention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "ssr1_rl_prefix_packing"
"""The function's name in transformers; it must not contain "flash", which transformers treats specially."""

BACKENDS: dict[str, type[PackedAttention]] = {"flash": FlashAttention, "flex": FlexAttention, "sdpa": SdpaAttention}

TRANSFORMERS_NAMES = {"flash": "flash_attention_2", "flex": "flex_attention", "sdpa": "sdpa"}
"""transformers' own attention of each kind, for rows that are not packed."""

REASONS = {
    "dropout": "with attention dropout",
    "s_aux": "with attention sinks",
    "sliding_window": "with sliding-window attention",
    "softcap": "with soft-capped attention scores",
}
"""Keywords of transformers' attention interface that change the result: the words for a model that passes them."""

IGNORED_BY_SDPA = {"softcap", "s_aux"}
"""Keywords that transformers' sdpa silently ignores."""

NEUTRAL = {"position_ids", "use_cache", "output_attentions", "is_causal"}
"""Keywords that do not change the result, or are checked separately."""


class InexactAttention(UserError):
    """A model's attention needs more than packed attention computes. The message completes "a model …"."""


def use_packed_attention(backbone: "PreTrainedModel") -> None:
    """Makes a language model use the `PackedAttention` that its forward pass gets as `packing`.

    Without that keyword it uses transformers' sdpa.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, _attend)
    backbone.config._attn_implementation = NAME


def _attend(
    module: nn.Module,
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
        InexactAttention: the model passes a keyword that would be ignored.
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


def _refuse(kwargs: Mapping[str, object], names: Iterable[str]) -> None:
    for name in sorted(names):
        if isinstance(kwargs[name], Tensor) or kwargs[name]:
            raise InexactAttention(REASONS.get(name, f"whose attention takes {name}"))
