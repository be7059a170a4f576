"""Precision and recall of a verifier against the truth, at one threshold and at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z_95 = 1.959963984540054
"""Half width of the central 95 % of the normal distribution, in standard deviations."""


@dataclass(frozen=True)
class PrecisionRecall:
    """How well a choice of chains agrees with which of them are grounded in the audio."""

    num_kept: int
    num_grounded: int
    num_kept_grounded: int

    @property
    def precision(self) -> float:
        """Share of the kept chains that are grounded; NaN if none is kept."""
        return self.num_kept_grounded / self.num_kept if self.num_kept else math.nan

    @property
    def recall(self) -> float:
        """Share of the grounded chains that are kept; NaN if none is grounded."""
        return self.num_kept_grounded / self.num_grounded if self.num_grounded else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if no grounded chain is kept, NaN without kept or grounded ones."""
        total = self.num_kept + self.num_grounded
        return 2 * self.num_kept_grounded / total if self.num_kept and self.num_grounded else math.nan

    @property
    def precision_interval(self) -> tuple[float, float]:
        """95 % confidence interval of the precision."""
        return wilson_interval(self.num_kept_grounded, self.num_kept)


@dataclass(frozen=True)
class Point:
    """Precision and recall if chains with at least `threshold` are kept."""

    threshold: float
    result: PrecisionRecall


def precision_recall(kept: Sequence[bool], grounded: Sequence[bool]) -> PrecisionRecall:
    """Compares which chains are kept with which are grounded."""
    pairs = list(zip(kept, grounded, strict=True))
    return PrecisionRecall(sum(k for k, _ in pairs), sum(g for _, g in pairs), sum(k and g for k, g in pairs))


def curve(scores: Sequence[float | None], grounded: Sequence[bool]) -> list[Point]:
    """One point for each set of chains that a threshold can keep, the largest set first.

    Chains of one score are kept together or not at all. A chain without a score (None) is never kept, and counts among
    the grounded ones if it is.
    """
    judged = sorted((score, truth) for score, truth in zip(scores, grounded, strict=True) if score is not None)
    num_grounded = sum(grounded)
    points: list[Point] = []
    kept, kept_grounded = len(judged), sum(truth for _, truth in judged)
    below = -math.inf  # the next lower score
    for index, (score, truth) in enumerate(judged):
        if index == 0 or score > judged[index - 1][0]:
            points.append(Point(_between(below, score), PrecisionRecall(kept, num_grounded, kept_grounded)))
            below = score
        kept -= 1
        kept_grounded -= truth
    return points


def threshold_for(points: Sequence[Point], precision: float) -> Point | None:
    """The lowest threshold with at least this precision, which has the largest recall of all that reach it."""
    return next((point for point in points if point.result.precision >= precision), None)


def best_f1(points: Sequence[Point]) -> Point:
    """The point with the largest F1, of equal ones that with the higher threshold."""
    return max(points, key=lambda point: (point.result.f1, point.threshold))


def average_precision(points: Sequence[Point]) -> float:
    """Mean of the precision over the recall, each step of recall with the precision at its end."""
    recalls = [point.result.recall for point in points[1:]] + [0.0]
    return math.fsum(
        (point.result.recall - after) * point.result.precision for point, after in zip(points, recalls, strict=True)
    )


def wilson_interval(num_right: int, num: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson 1927), which holds for small samples and shares near 0 and 1 too."""
    if not num:
        return 0.0, 1.0
    share, z2 = num_right / num, Z_95**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = Z_95 * math.sqrt(share * (1 - share) / num + z2 / (4 * num * num)) / (1 + z2 / num)
    return (max(0.0, centre - half) if num_right else 0.0), (min(1.0, centre + half) if num_right < num else 1.0)


def _between(below: float, score: float) -> float:
    """The number with the fewest digits that is above `below` and at most `score`: easy to copy, and keeps the same."""
    for digits in range(17):
        rounded = math.floor(score * 10**digits) / 10**digits
        if below < rounded <= score:
            return rounded
    return score
