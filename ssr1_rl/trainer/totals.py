"""Counts over micro-batches and ranks, and the learner's metrics computed from them."""

import math

import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.algorithm.loss import LossTerms
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.ratio_histogram import NUM_BINS, count_ratios, ratio_quantile

QUANTILES = (0.01, 0.5, 0.99)


class Totals:
    """Sums, maxima and the histogram of the policy ratio, over micro-batches and then over ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, float] = {}
        self.ratio_counts = torch.zeros(NUM_BINS, dtype=torch.int64)

    def add(self, other: "Totals") -> None:
        self.add_sums(**other.sums)
        self.add_maxima(**other.maxima)
        self.ratio_counts += other.ratio_counts

    def add_sums(self, **values: float) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def add_maxima(self, **values: float) -> None:
        for name, value in values.items():
            # Unlike max(), this keeps a NaN of either side, which must reach the guard.
            if math.isnan(value) or value > self.maxima.setdefault(name, 0.0):
                self.maxima[name] = value

    def add_micro_batch(self, batch: MicroBatch, logprobs_T: Tensor, entropy_T: Tensor, terms: LossTerms) -> None:
        """Counts one micro-batch. A filler adds only its computed tokens."""
        moved_T = torch.where(batch.in_loss_T, batch.rollout_logprobs_T - logprobs_T, 0.0)
        gap_T = torch.where(batch.comparable_T, moved_T.abs(), 0.0)
        num_tokens = batch.in_loss_T.sum()
        weights = terms.importance.double()
        on_device = {
            "comparable_tokens": batch.comparable_T.sum(),
            "loss": terms.loss.detach(),
            "tokens": num_tokens,
            "entropy": torch.where(batch.in_loss_T, entropy_T, 0.0).sum(),
            "clipped_low": terms.clipped_low,
            "clipped_high": terms.clipped_high,
            "kl": terms.kl,
            "reference_tokens": num_tokens if len(batch.ref_logprobs_T) else torch.zeros_like(num_tokens),
            "kl_rollout": moved_T.sum(),
            "logprob_abs_diff": gap_T.sum(),
            "importance_weights": weights.sum(),
            "importance_squares": weights.square().sum(),
            "importance_zeros": (weights == 0).sum(),
            "rejected": terms.rejected,
            "off_policy": terms.off_policy,
            "largest_gap": gap_T.max(),
            "largest_ratio": terms.ratio_T.max(),
        }
        # Stacked so that the host waits for the device only once.
        figures = torch.stack([value.double() for value in on_device.values()]).tolist()
        sums = dict(zip(on_device, figures, strict=True))
        maxima = {"logprob_abs_diff": sums.pop("largest_gap"), "ratio": sums.pop("largest_ratio")}
        sums |= {
            "row_tokens": float(batch.num_row_tokens),
            "responses": float(batch.layout.num_responses),
            "importance_count": float(len(weights)),
        }
        # Every rank has the same entries, even one that has only a filler.
        self.add_sums(computed_tokens=float(batch.num_computed_tokens), **_scaled(sums, batch.weight))
        self.add_maxima(**_scaled(maxima, batch.weight))
        if batch.weight:
            self.ratio_counts += count_ratios(terms.ratio_T)

    def over_ranks(self, device: torch.device) -> "Totals":
        """Totals over all ranks; a collective."""
        total = Totals()
        for values, target, op in (
            (self.sums, total.sums, dist.ReduceOp.SUM),
            (self.maxima, total.maxima, dist.ReduceOp.MAX),
        ):
            vector = torch.tensor([values[name] for name in sorted(values)], dtype=torch.float64, device=device)
            if op == dist.ReduceOp.MAX:
                # A maximum over ranks may lose NaN; infinity reaches the guard as well.
                vector = vector.nan_to_num(nan=math.inf, posinf=math.inf)
            dist.all_reduce(vector, op)
            target.update(zip(sorted(values), vector.tolist(), strict=True))
        counts = self.ratio_counts.to(device)
        dist.all_reduce(counts)
        total.ratio_counts = counts.cpu()
        total.sums["ranks"] = float(dist.get_world_size())
        return total


def _scaled(values: dict[str, float], weight: float) -> dict[str, float]:
    """The values times the weight: 0 for a filler, also where a value is NaN or infinite."""
    return {name: value * weight if weight else 0.0 for name, value in values.items()}


def summarise(totals: Totals) -> dict[str, float]:
    """Computes the metrics: means over trained tokens, over comparable tokens (log-prob differences), or over updates.

    The effective sample size is (sum w)^2 / (n sum w^2) of the n importance weights w as applied, 1 without
    correction. The hit rate is the share of clips whose output of the frozen tower was cached.
    """
    sums, tokens = totals.sums, max(1.0, totals.sums["tokens"])
    updates = sums["updates"]
    num_clips = sums.get("audio_clips", 0.0)
    return {
        "loss": sums["loss"] / (updates / sums["ranks"]),
        "grad_norm": sums["grad_norm"] / updates,
        "learning_rate": sums["learning_rate"] / updates,
        "entropy": sums["entropy"] / tokens,
        "clipped_low_share": sums["clipped_low"] / tokens,
        "clipped_high_share": sums["clipped_high"] / tokens,
        "kl_to_rollout": sums["kl_rollout"] / tokens,
        "effective_sample_size": _effective_share(sums),
        "importance_zero_share": sums["importance_zeros"] / max(1.0, sums["importance_count"]),
        "rejected_share": sums["rejected"] / max(1.0, sums["responses"]),
        "off_policy_masked_share": sums["off_policy"] / tokens,
        "ratio_max": totals.maxima["ratio"],
        **{f"ratio_p{round(100 * q):02d}": ratio_quantile(totals.ratio_counts, q) for q in QUANTILES},
        "logprob_abs_diff_mean": sums["logprob_abs_diff"] / max(1.0, sums["comparable_tokens"]),
        "logprob_abs_diff_max": totals.maxima["logprob_abs_diff"],
        "comparable_tokens": sums["comparable_tokens"],
        "trained_tokens": sums["tokens"],
        "row_tokens": sums["row_tokens"],
        "computed_tokens": sums["computed_tokens"],
        **({"kl_to_reference": sums["kl"] / sums["reference_tokens"]} if sums["reference_tokens"] else {}),
        **({"audio_cache_hit_rate": 1.0 - sums["audio_clips_encoded"] / num_clips} if num_clips else {}),
    }


def _effective_share(sums: dict[str, float]) -> float:
    if not sums["importance_count"]:
        return 1.0
    squares = sums["importance_count"] * sums["importance_squares"]
    return sums["importance_weights"] ** 2 / squares if squares else 0.0
