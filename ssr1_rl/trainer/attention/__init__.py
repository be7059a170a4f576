"""Ways of attending over packed groups: SDPA on CPUs, FlashAttention or FlexAttention on GPUs.

Each is a class that is made once per packed row, for its layout, and then called in every layer.
All give what `prefix_packing` describes, to float error.
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
        """Attends.

        Args:
            query: [1, N, L, D].
            key, value: the same, or with fewer heads, each for N / their number query heads.
            scaling: of the scores before the softmax; None: 1 / sqrt(D).

        Returns:
            [1, L, N, D].
        """
        ...
