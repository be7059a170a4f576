"""Packed attention with torch's FlexAttention (arXiv 2412.05496), compiled by triton; no backward pass on CPUs.

The kernel skips blocks of query-key pairs in which no query attends to a key. The blocks are derived from the layout,
so no L × L mask is needed: the grid has one entry for 128 × 128 pairs.

Shapes: L packed length, B blocks.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.layout import PackedLayout

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128
"""Side of a block in tokens; FlexAttention's kernels are tuned for it."""


class FlexAttention:
    """The `PackedAttention` for GPUs without flash-attn."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        self._mask = block_mask(layout, device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        attended = _kernel(query.device.type)(
            query,
            key,
            value,
            block_mask=self._mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        return attended.transpose(1, 2).contiguous()


@lru_cache
def _kernel(device_type: str) -> Callable[..., Tensor]:
    """FlexAttention, compiled on GPUs.

    It is compiled once for all lengths: beyond torch's limit of recompilations it would fall back to computing the
    whole L × L matrix of scores. `fullgraph` makes that an error.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True, fullgraph=True) if device_type == "cuda" else flex_attention


def block_mask(layout: PackedLayout, device: torch.device) -> "BlockMask":
    """FlexAttention's `BlockMask` of a packed row."""
    from torch.nn.attention.flex_attention import BlockMask

    some, whole = attended_blocks(layout)
    partly = some & ~whole
    segment, prompt = _segments(layout, device)

    def attends(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        visible = (segment[query] == segment[key]) | (prompt[query] == segment[key])
        return visible & (query >= key)

    length = len(segment)
    return BlockMask.from_kv_blocks(
        *_listed(partly, device),
        *_listed(whole, device),
        BLOCK_SIZE=BLOCK,
        mask_mod=attends,
        seq_lengths=(length, length),
    )


def attended_blocks(layout: PackedLayout) -> tuple[Tensor, Tensor]:
    """Two bool [B, B] by block of queries and block of keys: whether any pair is attended to, and whether all are."""
    length = sum(group.num_tokens for group in layout.groups)
    num_blocks = -(-length // BLOCK)
    some = torch.zeros(num_blocks, num_blocks, dtype=torch.bool)
    below_diagonal = torch.zeros_like(some)
    whole = torch.zeros_like(some)
    start = 0
    for group in layout.groups:
        end, prompt_end = start + group.num_tokens, start + group.prompt_length
        some[_touching(prompt_end, end), _touching(start, prompt_end)] = True
        whole[_inside(prompt_end, end), _inside(start, prompt_end)] = True
        for segment_length in (group.prompt_length, *group.response_lengths):
            touching, inside = (cut(start, start + segment_length) for cut in (_touching, _inside))
            some[touching, touching] = True
            below_diagonal[inside, inside] = True
            start += segment_length
    return some.tril(), whole | below_diagonal.tril(-1)


def _touching(start: int, end: int) -> slice:
    """The blocks that contain any of the tokens [start, end)."""
    return slice(start // BLOCK, -(-end // BLOCK) if end > start else start // BLOCK)


def _inside(start: int, end: int) -> slice:
    """The blocks that contain only tokens of [start, end)."""
    return slice(-(-start // BLOCK), end // BLOCK)


def _segments(layout: PackedLayout, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two int64 [L]: the number of each token's segment (prompt or response), and of its group's prompt."""
    lengths = [(group.prompt_length, *group.response_lengths) for group in layout.groups]
    firsts = torch.tensor([0, *(len(parts) for parts in lengths)]).cumsum(0)[:-1]
    of_segment = torch.tensor([length for parts in lengths for length in parts])
    segment = torch.arange(len(of_segment)).repeat_interleave(of_segment)
    prompt = firsts.repeat_interleave(torch.tensor([sum(parts) for parts in lengths]))
    return segment.to(device), prompt.to(device)


def _listed(blocks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """bool [B, B] in FlexAttention's form: int32 [1, 1, B] counts, and [1, 1, B, B] indices, true blocks first."""
    indices = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1)[None, None].int().to(device), indices[None, None].int().to(device)
