"""Means over questions with bootstrap intervals, votes over samples, and the significance of a difference.

Questions are what is resampled: the k samples of one question stay together, because only their mean or vote enters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from ssr1_rl.evaluation.results import Estimate
from ssr1_rl.evaluation.rules import Reading


@dataclass(frozen=True)
class Bootstrap:
    """Percentile bootstrap of a mean over questions (Efron, 1979)."""

    num_resamples: int
    confidence: float
    seed: int

    def mean(self, values: Sequence[float]) -> Estimate:
        """The mean of one value per question. It has the same interval whatever else is estimated."""
        levels, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
        num = len(values)
        # To draw `num` questions with replacement is to draw how often each distinct value comes.
        drawn = np.random.default_rng(self.seed).multinomial(num, counts / num, size=self.num_resamples)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(drawn @ levels / num, [tail, 1 - tail])
        return Estimate(float(counts @ levels / num), float(low), float(high), num)


def majority(samples: Sequence[Reading]) -> float:
    """Whether the answer that most samples of a question give is right.

    A sample without an answer does not vote. Of n answers with equally many votes each counts 1/n, which is what a
    random choice among them scores on average; without any vote the question is wrong.
    """
    votes = Counter(sample.vote for sample in samples if sample.vote)
    most = max(votes.values(), default=0)
    first = {sample.vote: sample for sample in reversed(samples)}
    winners = [first[vote] for vote, count in votes.items() if count == most]
    return sum(winner.is_right for winner in winners) / len(winners) if winners else 0.0


def mcnemar(num_only_first: int, num_only_second: int) -> float:
    """P-value of McNemar's exact test, two-sided: how often each of two models alone is right on the same questions."""
    num = num_only_first + num_only_second
    return float(binomtest(num_only_first, num, 0.5).pvalue) if num else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that their family-wise error is controlled (Holm, 1979)."""
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
