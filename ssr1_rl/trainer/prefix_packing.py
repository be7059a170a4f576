"""Attention over packed groups: every response attends to its group's prompt, computed once, and to itself.

A packed row is `[prompt | response 1 | … | response G] [prompt | …]`. Positions of every response go
on from its prompt's end, and nothing crosses groups or responses, so hidden states and gradients
are those of `[prompt | response]` rows computed one by one, to float error, while what all
responses of a group share is computed once instead of G times.

The function is registered with transformers' attention interface; model code is untouched. It works
on the parts, so that time and memory grow with the attended pairs and not with the square of the row.

Shapes: L packed length, P prompt tokens, G responses, R most response tokens of a group, N heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

ATTENTION = "ssr1_rl_prefix_packing"
"""The name under which transformers knows the attention function."""


@dataclass(frozen=True)
class PackedGroup:
    """Where one group lies in a packed row.

    Attributes:
        prompt_length: P, at least 1.
        response_lengths: tokens of each response, none of them empty.
    """

    prompt_length: int
    response_lengths: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and of all responses."""
        return self.prompt_length + sum(self.response_lengths)


@dataclass(frozen=True)
class PackedLayout:
    """The groups of a packed row, in order."""

    groups: tuple[PackedGroup, ...]

    def position_ids(self) -> Tensor:
        """int64 [L]: positions within each group; those of every response go on from the prompt's end."""
        parts = [
            torch.arange(start, start + length)
            for group in self.groups
            for start, length in [(0, group.prompt_length)]
            + [(group.prompt_length, length) for length in group.response_lengths]
        ]
        return torch.cat(parts)

    def predicting_index(self) -> Tensor:
        """int64 [T]: for each response token, where in the row the hidden state lies that predicts it.

        A response's first token is predicted by its prompt's last one, which all responses share.
        """
        parts: list[Tensor] = []
        start = 0
        for group in self.groups:
            prompt_end = start = start + group.prompt_length
            for length in group.response_lengths:
                parts += [torch.tensor([prompt_end - 1]), torch.arange(start, start + length - 1)]
                start += length
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def use_packed_attention(backbone: Any) -> None:
    """Lets a transformers language model attend as `packing`, a keyword of its forward pass, says.

    Without that keyword it attends as ever.

    Raises:
        ValueError: the model has sliding-window layers, whose attention this is not.
    """
    from transformers import AttentionInterface

    if "sliding_attention" in (getattr(backbone.config, "layer_types", None) or ()):
        raise ValueError(
            f"model.path names a {backbone.config.model_type} model with sliding-window attention, which the learner "
            "cannot train exactly; use a model whose config.json has no sliding-window layers"
        )

    AttentionInterface.register(ATTENTION, packed_attention)
    backbone.config._attn_implementation = ATTENTION


def packed_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: PackedLayout | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, N, L, D] queries, keys and values -> [1, L, N, D]."""
    if packing is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    sizes = [group.num_tokens for group in packing.groups]
    parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
    outputs = [_attend(group, *part, scaling) for group, part in zip(packing.groups, parts, strict=True)]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _attend(group: PackedGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
    """Attention of one group, [1, N, P + responses, D]."""
    prompt_length, lengths = group.prompt_length, group.response_lengths
    prompt_query, prompt_key, prompt_value = (tensor[:, :, :prompt_length] for tensor in (query, key, value))
    of_prompt = scaled_dot_product_attention(prompt_query, prompt_key, prompt_value, is_causal=True, scale=scaling)
    if not lengths:
        return of_prompt
    query_GNRD, key_GNRD, value_GNRD = (
        _padded_responses(tensor[0, :, prompt_length:], lengths) for tensor in (query, key, value)
    )
    of_responses = scaled_dot_product_attention(
        query_GNRD,
        torch.cat([prompt_key.expand(len(lengths), -1, -1, -1), key_GNRD], dim=2),
        torch.cat([prompt_value.expand(len(lengths), -1, -1, -1), value_GNRD], dim=2),
        attn_mask=_response_mask(prompt_length, max(lengths), query.device),
        scale=scaling,
    )
    responses = [of_responses[index, :, :length] for index, length in enumerate(lengths)]
    return torch.cat([of_prompt[0], *responses], dim=1)[None]


def _padded_responses(tensor_NTD: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[N, sum of lengths, D] -> [G, N, R, D]. Padding comes after the real keys, which never look ahead."""
    parts = tensor_NTD.transpose(0, 1).split(lengths)
    return pad_sequence(list(parts), batch_first=True).transpose(1, 2)


@lru_cache(maxsize=64)
def _response_mask(prompt_length: int, num_tokens: int, device: torch.device) -> Tensor:
    """bool [R, P + R]: the whole prompt, and the response up to the token itself."""
    mask = torch.ones(num_tokens, prompt_length + num_tokens, dtype=torch.bool, device=device)
    return mask.tril(diagonal=prompt_length)
