"""Responses -> readings by each rule -> the figures of a model on a split.

A response that failed, and every response to a row that could not be read, is wrong and stays in the denominator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssr1_rl.evaluation.results import GREEDY, Estimate, ModelOnSplit, RuleScores
from ssr1_rl.evaluation.rules import Reading, Rule
from ssr1_rl.evaluation.statistics import Bootstrap, majority
from ssr1_rl.evaluation.summary import by_value, mean, truncated_share
from ssr1_rl.types import Completion, Question

PASS_AT_1 = "pass@1"
FAILED = Reading("", False, "")
"""What a rule reads where there is no response."""


@dataclass(frozen=True)
class Response:
    """A response, or why there is none."""

    completion: Completion
    num_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Judged:
    """What the rules read in the responses to one question; the texts are not kept."""

    question: Question
    greedy: Mapping[str, Reading]  # by rule
    samples: Mapping[str, tuple[Reading, ...]]
    num_tokens: int  # of the greedy response, like the next two
    finish_reason: str
    error: str
    num_failed_samples: int


def judge(question: Question, greedy: Response, samples: Sequence[Response], rules: Sequence[Rule]) -> Judged:
    """Reads every response to a question by every rule."""
    return Judged(
        question,
        {rule.name: read(rule, question, greedy) for rule in rules},
        {rule.name: tuple(read(rule, question, sample) for sample in samples) for rule in rules},
        greedy.num_tokens,
        greedy.completion.finish_reason,
        greedy.error,
        sum(bool(sample.error) for sample in samples),
    )


def read(rule: Rule, question: Question, response: Response) -> Reading:
    """What a rule reads in a response; a failed one has no answer."""
    return FAILED if response.error else rule.read(question, response.completion)


def figures(
    judged: Sequence[Judged], rules: Sequence[str], columns: Sequence[str], bootstrap: Bootstrap, num_unreadable: int
) -> ModelOnSplit:
    """The figures of a model on a split.

    Args:
        judged: every row of the split; the last `num_unreadable` are those that could not be read.
        rules: names of the rules, the one that the table shows first first.
        columns: what scores are grouped by, `KIND` or metadata; a column that no question has gives no group.
        bootstrap: makes the intervals.
        num_unreadable: rows that the reader left out.
    """
    answered = [one for one in judged if not one.error]
    return ModelOnSplit(
        rules={rule: _scores(judged, rule, columns, bootstrap) for rule in rules},
        num_questions=len(judged),
        num_unreadable=num_unreadable,
        num_failed=len(judged) - len(answered) - num_unreadable,
        num_failed_samples=sum(one.num_failed_samples for one in judged[: len(judged) - num_unreadable]),
        cut_off_share=truncated_share([one.finish_reason for one in answered]) if answered else 0.0,
        no_answer_share=mean([not one.greedy[rules[0]].answer for one in answered]) if answered else 0.0,
        response_tokens_mean=mean([one.num_tokens for one in answered]) if answered else 0.0,
    )


def measures(num_samples: int) -> dict[str, Callable[[Judged, str], float]]:
    """The score of one question by a rule, for each measure; pass@1 and majority@k need samples."""
    found: dict[str, Callable[[Judged, str], float]] = {GREEDY: lambda one, rule: float(one.greedy[rule].is_right)}
    if num_samples:
        found[PASS_AT_1] = lambda one, rule: mean([sample.is_right for sample in one.samples[rule]])
        found[f"majority@{num_samples}"] = lambda one, rule: majority(one.samples[rule])
    return found


def _scores(judged: Sequence[Judged], rule: str, columns: Sequence[str], bootstrap: Bootstrap) -> RuleScores:
    overall: dict[str, Estimate] = {}
    groups: dict[str, dict[str, dict[str, Estimate]]] = {}
    for name, measure in measures(len(judged[0].samples[rule])).items():
        scored = [(one.question, measure(one, rule)) for one in judged]
        overall[name] = bootstrap.mean([score for _, score in scored])
        for column in columns:
            for value, scores in by_value(scored, column).items():
                groups.setdefault(column, {}).setdefault(value, {})[name] = bootstrap.mean(scores)
    return RuleScores(overall, groups)
