"""Packed attention by torch's scaled_dot_product_attention over each group's parts: any device, any dtype.

Shapes: P prompt tokens, G responses, R most response tokens of a group, N heads, D head size.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence

from ssr1_rl.trainer.prefix_packing import PackedGroup, PackedLayout


class SdpaAttention:
    """See `PackedAttention`. Responses of a group are padded to its longest."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        self._groups = layout.groups

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """See `PackedAttention`."""
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        sizes = [group.num_tokens for group in self._groups]
        parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
        outputs = [_attend(group, *part, scaling) for group, part in zip(self._groups, parts, strict=True)]
        return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


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
