"""Intervals and tests against values by hand, scipy, and large samples."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ssr1_rl.evaluation.compare import compare
from ssr1_rl.evaluation.rules import Reading
from ssr1_rl.evaluation.statistics import Bootstrap, holm, majority, mcnemar

BOOTSTRAP = Bootstrap(2000, 0.95, seed=0)


def test_the_mean_is_exact():
    assert BOOTSTRAP.mean([1.0, 0.0, 0.0]).value == 1 / 3
    assert BOOTSTRAP.mean([0.25, 0.5, 0.5, 1.0]).value == 0.5625
    assert BOOTSTRAP.mean([1.0, 0.0, 0.0]).num_questions == 3


def test_the_interval_of_three_values_is_that_of_all_27_resamples():
    values = (0.0, 0.5, 1.0)
    means = sorted(sum(drawn) / 3 for drawn in itertools.product(values, repeat=3))
    # 1/27 = 3.7 % of the resamples are at either end, 4/27 = 14.8 % at the end or next to it.
    for confidence, expected in ((0.95, (means[0], means[-1])), (0.8, (means[1], means[-2]))):
        found = Bootstrap(20_000, confidence, seed=1).mean(values)
        assert (found.low, found.high) == pytest.approx(expected)


@pytest.mark.parametrize(("num_right", "num"), [(300, 1000), (7100, 10_000), (150, 300)])
def test_the_interval_of_a_large_sample_is_the_normal_one(num_right, num):
    values = [1.0] * num_right + [0.0] * (num - num_right)
    found, p = Bootstrap(20_000, 0.95, seed=0).mean(values), num_right / num
    half = 1.96 * math.sqrt(p * (1 - p) / num)
    assert (found.low, found.high) == pytest.approx((p - half, p + half), abs=0.1 * half)


def test_the_interval_equals_that_of_drawing_questions_one_by_one():
    values = np.random.default_rng(3).choice([0.0, 0.25, 0.5, 1.0], size=400)
    drawn = values[np.random.default_rng(4).integers(400, size=(20_000, 400))].mean(axis=1)
    found = Bootstrap(20_000, 0.9, seed=0).mean(values)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.05, 0.95])), abs=2e-3)


def test_the_samples_of_a_question_are_resampled_together():
    """Four equal samples per question give the interval of the questions, not that of four times as many."""
    per_question = BOOTSTRAP.mean([1.0] * 30 + [0.0] * 70)
    apart = BOOTSTRAP.mean(([1.0] * 30 + [0.0] * 70) * 4)
    assert per_question.high - per_question.low == pytest.approx(2 * (apart.high - apart.low), rel=0.1)


def test_the_same_seed_gives_the_same_interval_whatever_came_before():
    values = [1.0, 0.0, 1.0, 0.5] * 25
    first = BOOTSTRAP.mean(values)
    BOOTSTRAP.mean([0.0, 1.0])
    assert BOOTSTRAP.mean(values) == first
    assert Bootstrap(2000, 0.95, seed=1).mean(values) != first


def test_an_interval_without_variance_has_no_width():
    found = BOOTSTRAP.mean([1.0] * 24)
    assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def reading(vote, is_right=False):
    return Reading(vote, is_right, vote)


RIGHT, WRONG, OTHER, NONE = reading("dog", True), reading("cat"), reading("cow"), reading("")


@pytest.mark.parametrize(
    ("samples", "score"),
    [
        ([RIGHT], 1.0),
        ([RIGHT, RIGHT, WRONG], 1.0),
        ([RIGHT, WRONG, WRONG], 0.0),
        ([RIGHT, WRONG], 1 / 2),
        ([RIGHT, WRONG, OTHER], 1 / 3),
        ([WRONG, OTHER], 0.0),
        ([RIGHT, RIGHT, WRONG, WRONG, OTHER], 1 / 2),
        ([NONE, NONE, NONE, RIGHT], 1.0),  # who does not answer does not vote
        ([NONE, NONE], 0.0),
        ([], 0.0),
    ],
)
def test_majority(samples, score):
    assert majority(samples) == score


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 2**5), (1, 9, 2 * 11 / 2**10), (2, 8, 2 * 56 / 2**10)],
)
def test_mcnemar_by_hand(first, second, p_value):
    assert mcnemar(first, second) == pytest.approx(p_value)
    assert mcnemar(second, first) == pytest.approx(p_value)


def test_mcnemar_of_many_pairs_nears_the_chi_squared_test():
    approximate = stats.chi2.sf((abs(460 - 540) - 1) ** 2 / 1000, df=1)
    assert mcnemar(460, 540) == pytest.approx(approximate, rel=0.02)


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04, and must not fall.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.3, 0.9]) == pytest.approx([0.6, 0.9])
    assert holm([0.5]) == [0.5]
    assert holm([]) == []
    assert holm([0.4, 0.4, 0.4]) == [1.0, 1.0, 1.0]


def test_compare_by_hand():
    is_right = {"a": [True] * 10 + [False] * 2, "b": [True] * 2 + [False] * 10, "c": [True] * 10 + [False] * 2}
    pairs = {(pair.model, pair.other): pair for pair in compare("test", "mmau", is_right, BOOTSTRAP)}
    assert list(pairs) == [("a", "b"), ("a", "c"), ("b", "c")]
    first = pairs["a", "b"]
    assert (first.num_only_model_right, first.num_only_other_right, first.split, first.rule) == (8, 0, "test", "mmau")
    assert first.difference.value == pytest.approx(8 / 12)
    assert first.difference.low > 0.3 and first.difference.high < 1
    assert first.p_value == pytest.approx(2 / 2**8)
    assert first.p_value_holm == pytest.approx(3 * 2 / 2**8)
    assert pairs["b", "c"].p_value_holm == pytest.approx(3 * 2 / 2**8), "not less than the one before"
    assert pairs["a", "c"].p_value == 1.0 and pairs["a", "c"].difference.value == 0.0


def test_two_models_need_no_correction():
    (pair,) = compare("test", "mmau", {"a": [True] * 6, "b": [False] * 6}, BOOTSTRAP)
    assert pair.p_value == pair.p_value_holm == pytest.approx(2 / 2**6)
    assert compare("test", "mmau", {"a": [True]}, BOOTSTRAP) == ()
