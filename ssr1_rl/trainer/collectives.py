"""Reduces numbers over all learner ranks. Every call is a collective."""

from collections.abc import Mapping

import torch
import torch.distributed as dist


def sum_over_ranks(value: float, device: torch.device) -> float:
    """Sum of the ranks' values."""
    return _reduce(value, dist.ReduceOp.SUM, device)


def sums_over_ranks(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Sums of the ranks' values by name; every rank has the same names."""
    names = sorted(values)
    vector = torch.tensor([values[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(vector)
    return dict(zip(names, vector.tolist(), strict=True))


def max_over_ranks(value: float, device: torch.device) -> float:
    """Largest of the ranks' values."""
    return _reduce(value, dist.ReduceOp.MAX, device)


def _reduce(value: float, op: dist.ReduceOp.RedOpType, device: torch.device) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op)
    return float(tensor)
