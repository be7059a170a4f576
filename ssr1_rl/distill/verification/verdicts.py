"""Verdicts on the claims of a chain, and the score of the chain that a rule makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["all", "mean", "none_contradicted"]
RULES: tuple[Rule, ...] = ("all", "mean", "none_contradicted")
OUTCOMES: tuple[str, ...] = ("supported", "contradicted", "cannot_tell")
"""What may be said about a claim, in the order of `verifier.verdicts`."""


@dataclass(frozen=True)
class Verdict:
    """What was said about one claim: the probability of each outcome; they add up to 1."""

    text: str  # the claim
    supported: float
    contradicted: float
    cannot_tell: float

    @property
    def outcome(self) -> str:
        """The likeliest of `OUTCOMES`."""
        return max(OUTCOMES, key=lambda outcome: getattr(self, outcome))


@dataclass(frozen=True)
class Judgement:
    """What a verifier said about one chain. With an `error` it said nothing."""

    verdicts: tuple[Verdict, ...] = ()
    own_score: float | None = None  # of a verifier of the user's that gives a score and no verdicts
    error: str = ""  # why
    is_failed: bool = False  # a request failed; else there was nothing to ask

    def score(self, rule: Rule) -> float | None:
        """The chain's score in [0, 1]; None if it was not judged."""
        if self.own_score is not None or not self.verdicts:
            return self.own_score
        return chain_score(self.verdicts, rule)

    def reason(self, rule: Rule, threshold: float) -> str:
        """Why the chain is validated or not, in a few words."""
        score = self.score(rule)
        if score is None:
            return f"failed: {self.error}" if self.is_failed else self.error
        compared = f"score {score:.3f} {'≥' if score >= threshold else '<'} {threshold:g}"
        if score >= threshold or not self.verdicts:
            return compared
        worst = weakest(self.verdicts, rule)
        what = "contradicted" if rule == "none_contradicted" else "supported"
        return f"{compared}: {what} with {getattr(worst, what):.3f}: {worst.text}"


def chain_score(verdicts: Sequence[Verdict], rule: Rule) -> float:
    """The score of a chain with at least one verdict, as `verifier.rule` says."""
    if rule == "all":
        return min(verdict.supported for verdict in verdicts)
    if rule == "mean":
        return math.fsum(verdict.supported for verdict in verdicts) / len(verdicts)
    return 1.0 - max(verdict.contradicted for verdict in verdicts)


def weakest(verdicts: Sequence[Verdict], rule: Rule) -> Verdict:
    """The verdict that lowers the score the most."""
    if rule == "none_contradicted":
        return max(verdicts, key=lambda verdict: verdict.contradicted)
    return min(verdicts, key=lambda verdict: verdict.supported)


def normalised(logprobs: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """The probabilities of the outcomes: softmax of the mean of their log-probs over several askings.

    A constant that a letter adds to a log-prob, because the model likes that letter, cancels in the mean once each
    outcome has stood at each letter.

    Args:
        logprobs: for each asking the log-prob of each outcome; -inf for one that is impossible.
    """
    means = [sum(column) / len(logprobs) for column in zip(*logprobs, strict=True)]
    largest = max(means)
    weights = [math.exp(mean - largest) for mean in means]
    return tuple(weight / math.fsum(weights) for weight in weights)
