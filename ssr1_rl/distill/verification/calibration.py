"""The figures of a calibration."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from ssr1_rl.distill.verification.curve import Point, PrecisionRecall
from ssr1_rl.distill.verification.verdicts import Rule


@dataclasses.dataclass(frozen=True)
class RuleResult:
    """What one rule over the verdicts gives."""

    points: Sequence[Point]  # from the lowest threshold to the highest
    average_precision: float
    at_target: Point | None  # None if no threshold reaches the wished precision
    best_f1: Point
    at_setting: PrecisionRecall  # with verifier.threshold

    def as_json(self) -> dict[str, object]:
        """Every figure, in values that JSON holds."""
        return {
            "average_precision": self.average_precision,
            "at_target": _point(self.at_target) if self.at_target else None,
            "best_f1": _point(self.best_f1),
            "at_setting": figures(self.at_setting),
            "curve": [_point(point) for point in self.points],
        }


@dataclasses.dataclass(frozen=True)
class ClaimLabels:
    """Verdicts on single claims against their labels."""

    num_labelled: int
    confusion: Mapping[str, Mapping[str, int]]  # claims by their label, then by the likeliest verdict

    @property
    def num_found(self) -> int:
        """Labelled claims that the verifier has judged: others are not worded as its claims are."""
        return sum(sum(row.values()) for row in self.confusion.values())

    @property
    def accuracy(self) -> float | None:
        """Share of the found claims whose likeliest verdict is the label; None if none was found."""
        right = sum(row[label] for label, row in self.confusion.items())
        return right / self.num_found if self.num_found else None

    def as_json(self) -> dict[str, object]:
        """Every figure, in values that JSON holds."""
        return {**dataclasses.asdict(self), "num_found": self.num_found, "accuracy": self.accuracy}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How a verifier's scores agree with labels."""

    target_precision: float
    num_labelled: int
    num_grounded: int
    unjudged: Mapping[str, int]  # labelled chains that could not be judged, by the reason; no threshold keeps them
    rule: Rule  # of the settings
    threshold: float  # of the settings
    rules: Mapping[Rule, RuleResult]  # only the settings' rule if a verifier of the user's gives scores, no verdicts
    claims: ClaimLabels

    @property
    def best(self) -> tuple[Rule, Point] | None:
        """The rule and threshold with the largest recall at the wished precision; None if none reaches it."""
        reached: list[tuple[Rule, Point]] = [
            (rule, result.at_target) for rule, result in self.rules.items() if result.at_target
        ]
        return max(reached, key=lambda found: (found[1].result.recall, found[1].result.precision), default=None)

    def as_json(self) -> dict[str, object]:
        """Every figure, in values that JSON holds."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "best": {"rule": self.best[0], **_point(self.best[1])} if self.best else None,
            "rules": {rule: result.as_json() for rule, result in self.rules.items()},
            "claims": self.claims.as_json(),
        }


def figures(result: PrecisionRecall) -> dict[str, object]:
    """The figures at one threshold; None for a share of nothing."""
    low, high = result.precision_interval
    shares = {"precision": result.precision, "recall": result.recall, "f1": result.f1}
    return {
        "num_kept": result.num_kept,
        "num_kept_grounded": result.num_kept_grounded,
        **{name: None if math.isnan(share) else share for name, share in shares.items()},
        "precision_low": low,
        "precision_high": high,
    }


def _point(point: Point) -> dict[str, object]:
    return {"threshold": point.threshold, **figures(point.result)}
