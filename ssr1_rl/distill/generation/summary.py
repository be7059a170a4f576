"""Figures of a table of chains: how many are kept, why others are not, and how that differs by kind of question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console

from ssr1_rl.distill.chains import Chain
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.types import Question

Summary = dict[str, object]
"""Figures by name, in values that JSON holds."""


def summarise(questions: Sequence[Question], chains: Sequence[Chain], num_left_out: int) -> Summary:
    """The figures of a finished stage.

    Args:
        questions: those that were asked.
        chains: all chains of these questions.
        num_left_out: questions that were not asked.
    """
    kinds = {question.id: question.kind for question in questions}
    by_kind: dict[str, list[Chain]] = {}
    for chain in chains:
        by_kind.setdefault(kinds[chain.question_id], []).append(chain)
    reasons = Counter(chain.reason.partition(":")[0] for chain in chains)
    return {
        **_figures(chains),
        "num_questions_left_out": num_left_out,
        "num_tokens": sum(chain.num_tokens for chain in chains),
        "reasons": dict(reasons.most_common()),
        "forbidden_words": _after_colon(chains, "forbidden word"),
        "by_kind": {kind: _figures(of_kind) for kind, of_kind in sorted(by_kind.items())},
    }


def print_summary(title: str, summary: Mapping[str, object], console: Console | None = None) -> None:
    """Prints the figures as tables."""
    plain = [(name, value) for name, value in summary.items() if isinstance(value, int | float)]
    summary_table(title, [{"figure": name, "value": value} for name, value in plain], console)
    reasons, by_kind = summary["reasons"], summary["by_kind"]
    assert isinstance(reasons, dict) and isinstance(by_kind, dict), "as `summarise` makes them"
    if reasons:
        summary_table("why", [{"reason": reason, "chains": count} for reason, count in reasons.items()], console)
    if len(by_kind) > 1:
        rows = [{"kind": kind or "none"} | _known(of) for kind, of in by_kind.items()]
        summary_table("by kind of question", rows, console)


def _known(figures: Mapping[str, int | float | None]) -> dict[str, object]:
    return {name: value for name, value in figures.items() if value is not None}


def _figures(chains: Sequence[Chain]) -> dict[str, int | float | None]:
    asked = {chain.question_id for chain in chains}
    with_kept = {chain.question_id for chain in chains if chain.kept}
    judged = [chain for chain in chains if chain.is_right is not None]
    return {
        "num_questions": len(asked),
        "num_chains": len(chains),
        "num_kept": sum(chain.kept for chain in chains),
        "kept_share": _share(sum(chain.kept for chain in chains), len(chains)),
        "right_share": _share(sum(bool(chain.is_right) for chain in judged), len(judged)),
        "num_questions_without_a_kept_chain": len(asked - with_kept),
    }


def _share(part: int, whole: int) -> float | None:
    """None if there is nothing to take a share of."""
    return part / whole if whole else None


def _after_colon(chains: Sequence[Chain], reason: str) -> dict[str, int]:
    found = Counter(chain.reason.partition(": ")[2] for chain in chains if chain.reason.startswith(f"{reason}: "))
    return dict(found.most_common())
