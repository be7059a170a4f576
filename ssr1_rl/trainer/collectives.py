"""Reduces one number over all learner ranks. Every call is a collective."""

import torch
import torch.distributed as dist


def sum_over_ranks(value: float, device: torch.device) -> float:
    """Sum of the ranks' values."""
    return _reduce(value, dist.ReduceOp.SUM, device)


def max_over_ranks(value: float, device: torch.device) -> float:
    """Largest of the ranks' values."""
    return _reduce(value, dist.ReduceOp.MAX, device)


def _reduce(value: float, op: dist.ReduceOp.RedOpType, device: torch.device) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op)
    return float(tensor)
