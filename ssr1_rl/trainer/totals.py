"""What a learner counts over micro-batches and ranks, and the metrics made of it."""

import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.trainer.batching import MicroBatch
from ssr1_rl.trainer.loss import LossTerms


class Totals:
    """Sums and maxima over micro-batches, later over ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, float] = {}

    def add(self, other: "Totals") -> None:
        """Adds another's sums and maxima."""
        self.add_sums(**other.sums)
        self.add_maxima(**other.maxima)

    def add_sums(self, **values: float) -> None:
        """Adds to sums."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def add_maxima(self, **values: float) -> None:
        """Raises maxima."""
        for name, value in values.items():
            # Written so that NaN stays: it must reach the guard.
            if not value <= self.maxima.get(name, 0.0):
                self.maxima[name] = value
            self.maxima.setdefault(name, 0.0)

    def add_micro_batch(self, batch: MicroBatch, logprobs_T: Tensor, entropy_T: Tensor, terms: LossTerms) -> None:
        """Counts one micro-batch; a filler counts as computed tokens alone."""
        self.add_sums(
            computed_tokens=float(batch.num_computed_tokens), row_tokens=float(batch.num_row_tokens) * batch.weight
        )
        if not batch.weight:
            return
        gap_T = (logprobs_T - batch.old_logprobs_T).abs() * batch.comparable_T
        self.add_sums(
            tokens=float(len(logprobs_T)),
            comparable_tokens=float(batch.comparable_T.sum()),
            loss=float(terms.loss.detach()),
            entropy=float(entropy_T.sum()),
            clipped_low=float(terms.clipped_low),
            clipped_high=float(terms.clipped_high),
            kl=float(terms.kl),
            kl_rollout=float((batch.old_logprobs_T - logprobs_T).sum()),
            logprob_abs_diff=float(gap_T.sum()),
        )
        self.add_maxima(logprob_abs_diff=float(gap_T.max()))

    def over_ranks(self, device: torch.device) -> "Totals":
        """The sums and maxima over all ranks (a collective)."""
        total = Totals()
        for values, target, op in (
            (self.sums, total.sums, dist.ReduceOp.SUM),
            (self.maxima, total.maxima, dist.ReduceOp.MAX),
        ):
            vector = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device)
            dist.all_reduce(vector, op)
            target.update(zip(sorted(values), vector.tolist(), strict=True))
        total.sums["ranks"] = float(dist.get_world_size())
        return total


def summarise(totals: Totals) -> dict[str, float]:
    """The metrics: means over trained tokens, and per update what is one figure per update."""
    sums, tokens = totals.sums, max(1.0, totals.sums["tokens"])
    updates = sums["updates"]
    return {
        "loss": sums["loss"] / (updates / sums["ranks"]),
        "grad_norm": sums["grad_norm"] / updates,
        "learning_rate": sums["learning_rate"] / updates,
        "entropy": sums["entropy"] / tokens,
        "clipped_low_share": sums["clipped_low"] / tokens,
        "clipped_high_share": sums["clipped_high"] / tokens,
        "kl_to_reference": sums["kl"] / tokens,
        "kl_to_rollout": sums["kl_rollout"] / tokens,
        "logprob_abs_diff_mean": sums["logprob_abs_diff"] / max(1.0, sums["comparable_tokens"]),
        "logprob_abs_diff_max": totals.maxima["logprob_abs_diff"],
        "comparable_tokens": sums["comparable_tokens"],
        "trained_tokens": sums["tokens"],
        "row_tokens": sums["row_tokens"],
        "computed_tokens": sums["computed_tokens"],
    }
