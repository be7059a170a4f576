"""Means that GRPO's validation and the evaluation of finished models compute in the same way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ssr1_rl.types import Question

KIND = "kind"
"""Stands for `Question.kind` among the columns that scores are grouped by."""


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)


def by_value(scored: Iterable[tuple[Question, float]], column: str) -> dict[str, list[float]]:
    """The scores of the questions with each value of a column, in the order of the values.

    A question whose value is a list counts for each of its values, and one without the column for none.
    """
    found: defaultdict[str, list[float]] = defaultdict(list)
    for question, score in scored:
        for value in values_of(question, column):
            found[value].append(score)
    return dict(sorted(found.items()))


def values_of(question: Question, column: str) -> list[str]:
    """The different values of a column, `KIND` or one of the metadata; empty if the question has none."""
    value = question.kind if column == KIND else question.metadata.get(column)
    values = value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(str(one) for one in values if one is not None and one != ""))


def truncated_share(finish_reasons: Sequence[str]) -> float:
    """Share of responses that were cut at the token limit."""
    return mean([reason == "length" for reason in finish_reasons])
