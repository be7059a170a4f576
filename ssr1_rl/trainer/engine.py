"""What the learner uses of a DeepSpeed engine and its optimizer, since DeepSpeed has no types of its own."""

from collections.abc import Callable, MutableMapping
from typing import Any, Protocol, TypeAlias, TypeGuard, overload

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.clips import ClipBatch
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.model.policy import Policy

LogprobsOf: TypeAlias = Callable[[MicroBatch], tuple[Tensor, Tensor]]
"""A policy's forward pass: log-probs [T] and entropies [T] of a micro-batch."""


class Optimizer(Protocol):
    """torch's optimizer, or the wrapper that DeepSpeed puts around it."""

    param_groups: list[dict[str, Any]]
    state: MutableMapping[Tensor, dict[str, Tensor]]


class ZeroOptimizer(Optimizer, Protocol):
    """The wrapper of ZeRO 1 to 3."""

    optimizer: Optimizer


class LinkedOptimizer(Protocol):
    """The wrapper of ZeRO 1 and 2, which links parameters to their fragments of the optimizer's state."""

    _hp_optimizer_states_linked: bool

    def _lazy_init_hp_params_optimizer_state(self) -> None: ...


def is_zero(optimizer: Optimizer) -> TypeGuard[ZeroOptimizer]:
    """Whether ZeRO holds float32 copies of the trained parameters and shards the optimizer's state."""
    return hasattr(optimizer, "optimizer")


def links_state(optimizer: object) -> TypeGuard[LinkedOptimizer]:
    """Whether it is the wrapper of ZeRO 1 or 2."""
    return hasattr(optimizer, "_lazy_init_hp_params_optimizer_state")


class Engine(Protocol):
    """A DeepSpeed engine around a policy."""

    module: Policy
    optimizer: Optimizer
    device: torch.device

    @overload
    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Tensor]: ...

    @overload
    def __call__(self, batch: ClipBatch) -> Tensor: ...

    def backward(self, loss: Tensor) -> object: ...

    def step(self) -> None: ...

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None: ...

    def get_global_grad_norm(self) -> float | Tensor | None: ...
