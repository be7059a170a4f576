"""What an evaluation found: figures of each model on each split, and comparisons of the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

GREEDY = "greedy"
"""Name of the measure over the greedy responses. The others are pass@1 and majority@k, over k samples per question."""

OURS = "accuracy"
"""Name of the accuracy reward's rule. The others are the benchmarks' official ones, see `ssr1_rl.evaluation.rules`."""


@dataclass(frozen=True)
class Estimate:
    """A mean over questions, with a bootstrap interval."""

    value: float
    low: float
    high: float
    num_questions: int


@dataclass(frozen=True)
class RuleScores:
    """The shares of right answers by one rule."""

    overall: Mapping[str, Estimate]  # by measure: greedy and, with samples, pass@1 and majority@k
    # Column of the data set, such as kind or difficulty -> its values -> measures. Rows without the column are not in.
    groups: Mapping[str, Mapping[str, Mapping[str, Estimate]]]


@dataclass(frozen=True)
class ModelOnSplit:
    """One model's figures on one split."""

    rules: Mapping[str, RuleScores]  # by the rule's name; the table shows the first one first
    num_questions: int  # rows of the split, those that failed or could not be read included: they count as wrong
    num_unreadable: int  # rows that the reader of the data set left out
    num_failed: int  # questions whose greedy response failed
    num_failed_samples: int
    cut_off_share: float  # of the greedy responses, those that ended at the token limit
    no_answer_share: float  # of the greedy responses, those in which the first rule finds no answer
    response_tokens_mean: float


@dataclass(frozen=True)
class Comparison:
    """Two models on one split: the greedy responses by the rule that the table shows first."""

    split: str
    rule: str
    model: str
    other: str
    difference: Estimate  # share of right answers of `model` minus that of `other`
    num_only_model_right: int
    num_only_other_right: int
    p_value: float  # McNemar's exact test
    p_value_holm: float  # corrected by Holm's method for the pairs of models on this split


@dataclass(frozen=True)
class Results:
    """The figures of an evaluation."""

    models: Mapping[str, str]  # by name, the folder or hub name
    splits: tuple[str, ...]
    figures: Mapping[str, Mapping[str, ModelOnSplit]]  # model -> split
    comparisons: tuple[Comparison, ...]

    def accuracy(self, model: str, split: str) -> float:
        """Share of right greedy answers by the accuracy reward's rule: the score of GRPO's validation."""
        return self.figures[model][split].rules[OURS].overall[GREEDY].value

    def as_json(self) -> dict[str, object]:
        """Every figure in plain values."""
        return dataclasses.asdict(self)
