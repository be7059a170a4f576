"""Figures of a table of verified chains: how many are validated, their scores, and how that differs by kind."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console

from ssr1_rl.distill.verification.verdicts import OUTCOMES
from ssr1_rl.distill.verification.verified import Verified
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.types import Question

NUM_BINS = 10


@dataclasses.dataclass(frozen=True)
class Share:
    """Chains that the teacher's stage kept, all of them or those of one kind of question."""

    num_chains: int
    num_validated: int
    num_questions: int
    num_questions_left: int  # without a validated chain

    @property
    def validated_share(self) -> float:
        """Share of the chains that are validated."""
        return self.num_validated / self.num_chains if self.num_chains else 0.0


@dataclasses.dataclass(frozen=True)
class Summary:
    """Figures of the stage."""

    of_all: Share
    num_judged: int
    num_failed: int  # chains of which a request failed, or whose question is not in the data
    num_unjudgeable: int  # chains without claims, with too many, or without audio
    num_asked: int  # requests: each claim about a clip once, in each order of the choices
    outcomes: Mapping[str, int]  # claims of the chains by their likeliest verdict
    score_histogram: Sequence[int]  # chains by score, in `NUM_BINS` equal bins from 0 to 1
    by_kind: Mapping[str, Share]

    def as_json(self) -> dict[str, object]:
        """Every figure, in values that JSON holds."""
        return {**dataclasses.asdict(self), "validated_share": self.of_all.validated_share}


def summarise(verified: Sequence[Verified], questions: Sequence[Question], num_asked: int) -> Summary:
    """The figures of a finished stage."""
    kinds = {question.id: question.kind for question in questions}
    kept = [one for one in verified if one.chain.kept]
    by_kind: dict[str, list[Verified]] = {}
    for one in kept:
        by_kind.setdefault(kinds.get(one.chain.question_id, ""), []).append(one)
    histogram = [0] * NUM_BINS
    scores = [one.score for one in kept if one.score is not None]
    for score in scores:
        histogram[min(int(score * NUM_BINS), NUM_BINS - 1)] += 1
    outcomes = Counter(verdict.outcome for one in kept for verdict in one.judgement.verdicts)
    return Summary(
        of_all=_share(kept),
        num_judged=len(scores),
        num_failed=sum(one.judgement.is_failed for one in kept),
        num_unjudgeable=sum(bool(one.judgement.error) and not one.judgement.is_failed for one in kept),
        num_asked=num_asked,
        outcomes={outcome: outcomes[outcome] for outcome in OUTCOMES},
        score_histogram=histogram,
        by_kind={kind: _share(ones) for kind, ones in sorted(by_kind.items())},
    )


def _share(verified: Sequence[Verified]) -> Share:
    questions = {one.chain.question_id for one in verified}
    with_one = {one.chain.question_id for one in verified if one.validated}
    return Share(len(verified), sum(one.validated for one in verified), len(questions), len(questions - with_one))


def print_summary(title: str, summary: Summary, console: Console | None = None) -> None:
    """Prints the figures as tables."""
    figures: dict[str, object] = {
        "chains that the teacher's stage kept": summary.of_all.num_chains,
        "judged": summary.num_judged,
        "failed": summary.num_failed,
        "without claims, or not to be judged": summary.num_unjudgeable,
        "requests": summary.num_asked,
        "validated": f"{summary.of_all.num_validated:,} ({summary.of_all.validated_share:.1%})",
        "questions": summary.of_all.num_questions,
        "questions left without a chain": summary.of_all.num_questions_left,
        **{f"claims: {outcome.replace('_', ' ')}": count for outcome, count in summary.outcomes.items()},
    }
    summary_table(title, [{"figure": name, "value": value} for name, value in figures.items()], console)
    if summary.num_judged:
        width = 1 / NUM_BINS
        bins = [
            {"score": f"{index * width:.1f} to {(index + 1) * width:.1f}", "chains": count}
            for index, count in enumerate(summary.score_histogram)
        ]
        summary_table("scores", bins, console)
    if len(summary.by_kind) > 1:
        rows = [
            {"kind": kind or "none", **dataclasses.asdict(share), "validated_share": share.validated_share}
            for kind, share in summary.by_kind.items()
        ]
        summary_table("by kind of question", rows, console)
