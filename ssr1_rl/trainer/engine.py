"""The members of a DeepSpeed engine that the learner uses, because DeepSpeed has no types."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, overload

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.clips import ClipBatch
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.model.policy import Policy

LogprobsOf: TypeAlias = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""A policy's forward pass: log-probs [T] and entropies [T] of a micro-batch."""


class Engine(Protocol):
    """A DeepSpeed engine around a policy."""

    module: Policy
    device: torch.device
    optimizer: Any
    """torch's optimizer, or ZeRO's wrapper around it."""

    @overload
    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Tensor]: ...
    @overload
    def __call__(self, batch: ClipBatch) -> Tensor: ...
    def backward(self, loss: Tensor) -> object: ...
    def step(self) -> None: ...
    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None: ...
    def get_global_grad_norm(self) -> float | Tensor | None: ...
