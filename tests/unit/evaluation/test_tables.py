"""The exact text of the tables."""

import csv
import io

import pytest

from ssr1_rl.evaluation.results import Comparison, Estimate, ModelOnSplit, Results, RuleScores
from ssr1_rl.evaluation.tables import as_csv, as_markdown

MARKDOWN = """\
# Evaluation

Right answers in %, with 95% bootstrap intervals over questions. Questions that failed count as wrong. A split's \
columns are the rules: its benchmark's official one if there is one, then `accuracy`, the accuracy reward's, which \
GRPO's validation shows too.

## greedy

| model | mini: mmau | mini: accuracy |
| --- | --- | --- |
| base | 50.0 [40.0, 60.0] | 25.0 [20.0, 30.0] |
| tuned\\|v2 | 75.0 [70.0, 80.0] | 75.0 [70.0, 80.0] |

## Differences

Greedy responses, in percentage points. p is of McNemar's exact test on the questions that only one of the two models \
answers right, corrected by Holm's method for the pairs of models on a split.

| split | rule | models | difference | only first right | only second right | p |
| --- | --- | --- | --- | --- | --- | --- |
| mini | mmau | base - tuned\\|v2 | -25.0 [-30.0, +2.0] | 1 | 3 | 0.62 |

## Responses

| model | split | questions | unreadable | failed | failed samples | cut off | no answer | tokens |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| base | mini | 1,000 | 2 | 3 | 4 | 12.5% | 6.2% | 10.2 |
| tuned\\|v2 | mini | 1,000 | 2 | 3 | 4 | 12.5% | 6.2% | 10.2 |

## mini by category: mmau

| category | questions | base | tuned\\|v2 |
| --- | --- | --- | --- |
| \\*\\*a\\*\\* &lt;b> | 7 | 50.0 [40.0, 60.0] | 75.0 [70.0, 80.0] |
"""


def estimate(percent, low, high, num=1000):
    return Estimate(percent / 100, low / 100, high / 100, num)


def on_split(first, second):
    group = {"category": {"**a**\n<b>": {"greedy": Estimate(first.value, first.low, first.high, 7)}}}
    rules = {"mmau": RuleScores({"greedy": first}, group), "accuracy": RuleScores({"greedy": second}, {})}
    return ModelOnSplit(rules, 1000, 2, 3, 4, 0.125, 0.0624, 10.24)


@pytest.fixture
def results():
    high = estimate(75, 70, 80)
    figures = {
        "base": {"mini": on_split(estimate(50, 40, 60), estimate(25, 20, 30))},
        "tuned|v2": {"mini": on_split(high, high)},
    }
    pair = Comparison("mini", "mmau", "base", "tuned|v2", estimate(-25, -30, 2), 1, 3, 0.3125, 0.625)
    return Results({"base": "b", "tuned|v2": "t"}, ("mini",), figures, (pair,))


def test_markdown(results):
    assert as_markdown(results, 0.95) == MARKDOWN


def test_csv_has_every_share_and_difference(results):
    rows = list(csv.DictReader(io.StringIO(as_csv(results))))
    assert [(row["model"], row["rule"], row["column"], row["share"]) for row in rows] == [
        ("base", "mmau", "", "0.5"),
        ("base", "mmau", "category", "0.5"),
        ("base", "accuracy", "", "0.25"),
        ("tuned|v2", "mmau", "", "0.75"),
        ("tuned|v2", "mmau", "category", "0.75"),
        ("tuned|v2", "accuracy", "", "0.75"),
        ("base", "mmau", "", "-0.25"),
    ]
    assert (rows[1]["value"], rows[1]["num_questions"]) == ("**a**\n<b>", "7")
    assert (rows[-1]["other_model"], rows[-1]["p_value"], rows[-1]["p_value_holm"]) == ("tuned|v2", "0.3125", "0.625")


def test_the_accuracy_of_a_model_is_that_of_the_reward_s_rule(results):
    assert results.accuracy("base", "mini") == 0.25
