"""Attention of a group's responses on CPUs: to the shared prompt and to themselves apart, merged exactly.

A softmax over two sets of keys is the mean of the two softmaxes' outputs, weighted by exp(logsumexp of their
scores); FlashAttention (arXiv 2205.14135, section 3.1) merges its blocks so. The prompt's keys and values
are then neither copied for each response nor kept for the backward pass G times, and no mask is needed.
The backward pass of either part is the kernel's own, given the merged output and logsumexp.

Shapes: P prompt tokens, S tokens of all responses, G responses, R most tokens of one, N heads, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

# What scaled_dot_product_attention calls on a CPU; it keeps the logsumexp to itself.
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend_to_prompt_and_self(
    query_NSD: Tensor,
    prompt: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    lengths: tuple[int, ...],
    scaling: float | None,
) -> Tensor:
    """Attention [N, S, D] of responses that lie one behind the other.

    Args:
        prompt: keys and values [N, P, D], all of which every response sees.
        own: the responses' keys and values [N, S, D], each seen by later tokens of its response.
        lengths: tokens of each response.
        scaling: of the scores; None: 1 / sqrt(D).
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
        # The share of exp(score) that lies on the prompt.
        share = torch.sigmoid(sums[0] - own_sums)[..., None]
        output = torch.lerp(of_self.to(share.dtype), of_prompt[0].to(share.dtype), share).to(query.dtype)
        merged_sums = torch.logaddexp(sums[0], own_sums)
        ctx.save_for_backward(query, prompt_key, prompt_value, key, value, output, merged_sums)
        ctx.lengths, ctx.scale = lengths, scale
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, prompt_key, prompt_value, key, value, output, sums = ctx.saved_tensors
        lengths, scale = ctx.lengths, ctx.scale
        grad_output = grad_output.contiguous()
        whole = (tensor[None] for tensor in (grad_output, query, prompt_key, prompt_value, output, sums))
        grad_query, *grads_of_prompt = _attend_backward(*whole, 0.0, False, scale=scale)
        # Padding has a gradient of 0, so it adds nothing whatever its logsumexp.
        parts = (padded(tensor, lengths) for tensor in (grad_output, query, key, value, output, sums))
        grads_of_own = _attend_backward(*parts, 0.0, True, scale=scale)
        own_query, own_key, own_value = (joined(gradient, lengths) for gradient in grads_of_own)
        return grad_query[0] + own_query, *(g[0] for g in grads_of_prompt), own_key, own_value, None, None


def padded(tensor_NS: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[N, S, ...] -> [G, N, R, ...]. Padding comes after the real keys, which never look ahead."""
    parts = tensor_NS.transpose(0, 1).split(lengths)
    return pad_sequence(list(parts), batch_first=True).transpose(1, 2)


def joined(tensor_GNR: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """[G, N, R, ...] -> [N, S, ...], without the padding."""
    return torch.cat([part[:, :length] for part, length in zip(tensor_GNR, lengths, strict=True)], dim=1)
