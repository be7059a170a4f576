"""Verdicts, rules over them, and precision and recall: all by hand."""

import itertools
import math

import pytest

from ssr1_rl.distill.verification.curve import (
    average_precision,
    best_f1,
    curve,
    precision_recall,
    threshold_for,
    wilson_interval,
)
from ssr1_rl.distill.verification.verdicts import RULES, Judgement, Verdict, chain_score, normalised

VERDICTS = (Verdict("a dog", 0.9, 0.05, 0.05), Verdict("a car", 0.3, 0.1, 0.6), Verdict("a horn", 0.6, 0.3, 0.1))


def test_each_rule_makes_its_score():
    assert chain_score(VERDICTS, "all") == 0.3
    assert chain_score(VERDICTS, "mean") == pytest.approx(0.6)
    assert chain_score(VERDICTS, "none_contradicted") == pytest.approx(0.7)
    assert all(chain_score(VERDICTS[:1], rule) == pytest.approx(0.9 if rule != RULES[2] else 0.95) for rule in RULES)


def test_the_reason_names_the_claim_that_decides():
    judgement = Judgement(VERDICTS)
    assert judgement.reason("all", 0.5) == "score 0.300 < 0.5: supported with 0.300: a car"
    assert judgement.reason("none_contradicted", 0.75) == "score 0.700 < 0.75: contradicted with 0.300: a horn"
    assert judgement.reason("mean", 0.5) == "score 0.600 ≥ 0.5"
    assert Judgement(own_score=0.25).reason("all", 0.5) == "score 0.250 < 0.5"
    assert Judgement(error="no claims").reason("all", 0.5) == "no claims"
    assert Judgement(error="lost", is_failed=True).reason("all", 0.5) == "failed: lost"


def test_probabilities_are_those_of_the_three_letters_alone():
    assert normalised([[math.log(0.2), math.log(0.1), math.log(0.1)]]) == pytest.approx((0.5, 0.25, 0.25))
    assert normalised([[0.0, -math.inf, -math.inf]]) == (1.0, 0.0, 0.0)
    assert normalised([[-1000.0, -1001.0, -1002.0]]) == pytest.approx((0.66524096, 0.24472847, 0.09003057))


def test_a_liking_for_letters_cancels_once_each_verdict_has_stood_at_each_letter():
    of_verdict, of_letter = (1.0, -0.5, 0.25), (3.0, -2.0, 0.7)
    rows = [[of_verdict[v] + of_letter[(v - order) % 3] for v in range(3)] for order in range(3)]
    total = sum(map(math.exp, of_verdict))
    assert normalised(rows) == pytest.approx([math.exp(value) / total for value in of_verdict])
    assert normalised(rows[:1]) != pytest.approx(normalised(rows), abs=0.1)


SCORES = [0.91, 0.8, 0.8, 0.3, None, 0.3]
GROUNDED = [True, True, False, False, True, True]


def test_the_curve_keeps_equal_scores_together_and_counts_chains_without_a_score():
    points = curve(SCORES, GROUNDED)
    found = [(p.threshold, p.result.num_kept, p.result.precision, p.result.recall) for p in points]
    assert found == [(0.0, 5, 3 / 5, 3 / 4), (0.8, 3, 2 / 3, 2 / 4), (0.9, 1, 1.0, 1 / 4)]
    assert [p.result.f1 for p in points] == pytest.approx([2 / 3, 4 / 7, 2 / 5])
    assert best_f1(points).threshold == 0.0
    assert average_precision(points) == pytest.approx(1 / 4 * 1 + 1 / 4 * 2 / 3 + 1 / 4 * 3 / 5)


def test_every_threshold_of_the_curve_keeps_what_it_says():
    scores = [0.1, 0.123456, 0.1234561, 0.5, 0.5000000001, 1.0, 0.0, 1e-9]
    grounded = [False, True, True, False, True, True, False, True]
    points = curve(scores, grounded)
    assert len(points) == 8
    for point in points:
        kept = [score >= point.threshold for score in scores]
        assert precision_recall(kept, grounded) == point.result


def test_the_threshold_for_a_precision_has_the_largest_recall_of_those_that_reach_it():
    # From the highest score on: right, wrong, right, right, right, wrong: precision falls and rises again.
    points = curve([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [True, False, True, True, True, False])
    assert [p.result.precision for p in points] == pytest.approx([4 / 6, 4 / 5, 3 / 4, 2 / 3, 1 / 2, 1])
    at = threshold_for(points, 0.75)
    assert at is not None and (at.threshold, at.result.num_kept) == (0.5, 5)
    assert threshold_for(points, 0.81).result.num_kept == 1
    assert threshold_for(curve([0.9, 0.1], [False, True]), 0.6) is None


def test_nothing_kept_or_nothing_grounded_has_no_precision_or_recall():
    nothing = precision_recall([False, False], [True, False])
    assert math.isnan(nothing.precision) and nothing.recall == 0.0 and math.isnan(nothing.f1)
    assert math.isnan(precision_recall([True], [False]).recall)
    assert precision_recall([True, True], [False, False]).precision == 0.0


def test_wilson_s_interval():
    # From the formula with z = 1.959964.
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((0.722467, 1.0), abs=1e-6)
    assert wilson_interval(0, 5) == pytest.approx((0.0, 0.434482), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    for right, num in itertools.combinations(range(12), 2):
        low, high = wilson_interval(right, num)
        assert 0 <= low <= right / num <= high <= 1
