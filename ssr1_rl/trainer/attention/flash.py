"""Packed attention with FlashAttention's variable-length kernel (arXiv 2307.08691; package flash-attn, NVIDIA GPUs).

One call computes the whole row. The queries are the row's tokens, cut into prompts and responses. A prompt's keys are
its own; a response's keys are those of its group's prompt followed by its own. With more keys than queries the
kernel aligns its causal mask to the bottom right, so a response's i-th token attends to the whole prompt and to the
first i tokens of the response.

Keys and values are copied for this: P + R of them for a prompt of P and a response of R tokens, as many as unpacked
rows would have. Gradient checkpointing frees the copies after each layer.

Shapes: L packed length, K copied keys, N heads, D head size.
"""

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.layout import PackedLayout


class FlashAttention:
    """The `PackedAttention` for GPUs with flash-attn."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        num_queries: list[int] = []
        keys: list[Tensor] = []
        start = 0
        for group in layout.groups:
            prompt = torch.arange(start, start + group.prompt_length)
            num_queries.append(group.prompt_length)
            keys.append(prompt)
            start += group.prompt_length
            for length in group.response_lengths:
                num_queries.append(length)
                keys.append(torch.cat([prompt, torch.arange(start, start + length)]))
                start += length
        num_keys = [len(part) for part in keys]
        self._key_index = torch.cat(keys).to(device)
        self._lengths = {
            "cu_seqlens_q": _cumulated(num_queries, device),
            "cu_seqlens_k": _cumulated(num_keys, device),
            "max_seqlen_q": max(num_queries),
            "max_seqlen_k": max(num_keys),
        }

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        key, value = (_Copies.apply(tensor, self._key_index) for tensor in (key, value))
        return flash_attn_varlen_func(query, key, value, **self._lengths, softmax_scale=scaling, causal=True)[None]


def _cumulated(lengths: list[int], device: torch.device) -> Tensor:
    """int32 [len(lengths) + 1]: the start of each sequence, and the end of the last."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


class _Copies(torch.autograd.Function):
    """[L, N, D] -> [K, N, D] by index. The gradients of a token's copies, many for a prompt, are summed in float32."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_tokens = len(tensor)
        return tensor.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (index,) = ctx.saved_tensors
        total = grad.new_zeros(ctx.num_tokens, *grad.shape[1:], dtype=torch.float32)
        return total.index_add_(0, index, grad.float()).to(grad.dtype), None
