"""Attention of a group's responses on CPUs: to the prompt and to themselves separately, then merged exactly.

The output of a softmax over two sets of keys is the mean of the two softmaxes' outputs, weighted by exp(logsumexp of
their scores), as FlashAttention merges its blocks (arXiv 2205.14135, section 3.1). So the prompt's keys and values are
neither copied for each response nor stored G times for the backward pass, and no mask is needed. The backward pass of
each part is the kernel's own, applied to the merged output and logsumexp.

Shapes: _P prompt tokens, _S tokens of all responses, _G responses, _R tokens of the longest, _N heads, _D head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

# The kernel of scaled_dot_product_attention on CPUs, called directly because it also returns the logsumexp.
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_to_prompt_and_self(
    query_NSD: Tensor,
    prompt: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    lengths: tuple[int, ...],
    scaling: float | None,
) -> Tensor:
    """Attention output [N, S, D] of the concatenated responses of a group.

    Args:
        prompt: keys and values [N, P, D]; every response attends to all of them.
        own: the responses' keys and values [N, S, D]; causal within each response.
        lengths: tokens of each response.
        scaling: factor of the scores; None means 1 / sqrt(D).
    """
    scale = query_NSD.shape[-1] ** -0.5 if scaling is None else scaling
    return _PromptAndSelf.apply(query_NSD, *prompt, *own, lengths, scale)  # pyright: ignore[reportReturnType]


class _PromptAndSelf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: tuple[int, ...],
        scale: float,
    ) -> Tensor:
        of_prompt, sums = _attend(query[None], prompt_key[None], prompt_value[None], scale=scale)
        parts = [padded(tensor, lengths) for tensor in (query, key, value)]
        of_self, own_sums = _attend(*parts, is_causal=True, scale=scale)
        of_self, own_sums = joined(of_self, lengths), joined(own_sums, lengths)
        # The prompt's share of the sum of exp(score).
        share = torch.sigmoid(sums[0] - own_sums)[..., None]
        output = torch.lerp(of_self.to(share.dtype), of_prompt[0].to(share.dtype), share).to(query.dtype)
        merged_sums = torch.logaddexp(sums[0], own_sums)
        ctx.save_for_backward(query, prompt_key, prompt_value, key, value, output, merged_sums)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, prompt_key, prompt_value, key, value, output, sums = ctx.saved_tensors
        lengths, scale = ctx.lengths, ctx.scale
        grad_output = grad_output.contiguous()
        whole = (tensor[None] for tensor in (grad_output, query, prompt_key, prompt_value, output, sums))
        grad_query, *grads_of_prompt = _attend_backward(*whole, 0.0, False, scale=scale)
        # The gradient of padding is 0, so its logsumexp has no effect.
        parts = (padded(tensor, lengths) for tensor in (grad_output, query, key, value, output, sums))
        grads_of_own = _attend_backward(*parts, 0.0, True, scale=scale)
        own_query, own_key, own_value = (joined(gradient, lengths) for gradient in grads_of_own)
        return grad_query[0] + own_query, *(g[0] for g in grads_of_prompt), own_key, own_value, None, None


def padded(tensor_NS: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[N, S, ...] -> [G, N, R, ...], padded on the right, which causal attention never reads."""
    parts = tensor_NS.transpose(0, 1).split(lengths)
    return pad_sequence(list(parts), batch_first=True).transpose(1, 2)


def joined(tensor_GNR: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[G, N, R, ...] -> [N, S, ...], with the padding removed."""
    return torch.cat([part[:, :length] for part, length in zip(tensor_GNR, lengths, strict=True)], dim=1)
