"""Packed attention with torch's scaled_dot_product_attention over each group's parts: any device, any dtype.

Shapes: _P prompt tokens, _G responses, _R tokens of the longest one, _S tokens of all responses, _T = P + R,
_N heads, _D head size.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ssr1_rl.trainer.attention.cpu import attend_to_prompt_and_self, joined, padded
from ssr1_rl.trainer.batches.layout import PackedGroup, PackedLayout


class SdpaAttention:
    """The `PackedAttention` that runs everywhere. Responses of a group are padded to the longest one."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        self._groups = layout.groups
        self._attend_responses = attend_to_prompt_and_self if device.type == "cpu" else UnderMask(device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        sizes = [group.num_tokens for group in self._groups]
        parts = zip(query.split(sizes, 2), key.split(sizes, 2), value.split(sizes, 2), strict=True)
        outputs = [self._attend(group, *part, scaling) for group, part in zip(self._groups, parts, strict=True)]
        return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()

    def _attend(self, group: PackedGroup, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """Attention output of one group, [1, N, P + S, D]."""
        start, lengths = group.prompt_length, group.response_lengths
        query_NPD, key_NPD, value_NPD = (tensor[0, :, :start] for tensor in (query, key, value))
        of_prompt = scaled_dot_product_attention(
            query_NPD[None], key_NPD[None], value_NPD[None], is_causal=True, scale=scaling
        )
        if not lengths:
            return of_prompt
        query_NSD, key_NSD, value_NSD = (tensor[0, :, start:] for tensor in (query, key, value))
        of_responses = self._attend_responses(query_NSD, (key_NPD, value_NPD), (key_NSD, value_NSD), lengths, scaling)
        return torch.cat([of_prompt, of_responses[None]], dim=2)


class UnderMask:
    """`attend_to_prompt_and_self` for any device, with a mask and a copy of the prompt's keys per response."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._masks: dict[tuple[int, int], Tensor] = {}

    def __call__(
        self,
        query_NSD: Tensor,
        prompt: tuple[Tensor, Tensor],
        own: tuple[Tensor, Tensor],
        lengths: tuple[int, ...],
        scaling: float | None,
    ) -> Tensor:
        key_GNTD, value_GNTD = (
            torch.cat([of_prompt.expand(len(lengths), -1, -1, -1), padded(of_responses, lengths)], dim=2)
            for of_prompt, of_responses in zip(prompt, own, strict=True)
        )
        mask = self._mask(prompt[0].shape[1], max(lengths))
        output = scaled_dot_product_attention(
            padded(query_NSD, lengths), key_GNTD, value_GNTD, attn_mask=mask, scale=scaling
        )
        return joined(output, lengths)

    def _mask(self, prompt_length: int, num_tokens: int) -> Tensor:
        """bool [R, P + R]: True for the whole prompt, and for the response up to the token. Cached for all layers."""
        shape = num_tokens, prompt_length + num_tokens
        if shape not in self._masks:
            whole = torch.ones(shape, dtype=torch.bool, device=self._device)
            self._masks[shape] = whole.tril(diagonal=prompt_length)
        return self._masks[shape]
