"""One number agreed on by all learner ranks. Every call is a collective."""

from typing import Any

import torch
import torch.distributed as dist


def sum_over_ranks(value: float, device: torch.device) -> float:
    """The sum of the ranks' values."""
    return _reduce(value, dist.ReduceOp.SUM, device)


def max_over_ranks(value: float, device: torch.device) -> float:
    """The largest of the ranks' values."""
    return _reduce(value, dist.ReduceOp.MAX, device)


def _reduce(value: float, op: Any, device: torch.device) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op)
    return float(tensor)
