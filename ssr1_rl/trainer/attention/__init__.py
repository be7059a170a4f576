"""Attention over packed rows: SDPA, FlashAttention or FlexAttention. `batches.layout` says where groups are in a row.

Each backend is a class with one instance per packed row, which every layer of the model calls. All compute, to float
error, the same result: that of `[prompt | response]` rows computed one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ssr1_rl.trainer.batches.layout import PackedLayout


class PackedAttention(Protocol):
    """Attention over one packed row. Shapes: L packed length, N heads, D head size."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None: ...

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        """softmax(scaling · query keyᵀ) value over the keys that each token may attend to.

        Args:
            query: [1, N, L, D].
            key, value: [1, N or fewer, L, D]; with fewer heads, each serves an equal share of the query heads.
            scaling: factor of the scores; None means 1 / sqrt(D).

        Returns:
            [1, L, N, D].
        """
        ...
