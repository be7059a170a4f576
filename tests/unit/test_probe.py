"""The figures of the probe: one for the guard, whatever it finds."""

import math

import pytest

from ssr1_rl.config.sections.watch import GuardConfig
from ssr1_rl.faults.guards import GuardTripped, check_logprobs
from ssr1_rl.probe import logprob_gaps

NAN = float("nan")


def test_mean_and_maximum_over_all_tokens():
    assert logprob_gaps([0.1, 0.3, 0.2]) == {
        "logprob_abs_diff_mean": pytest.approx(0.2),
        "logprob_abs_diff_max": 0.3,
        "comparable_tokens": 3.0,
    }


@pytest.mark.parametrize("gaps", [[NAN, 0.1], [0.1, NAN]])
def test_a_difference_that_is_no_number_trips_the_guard(gaps):
    figures = logprob_gaps(gaps)
    assert math.isnan(figures["logprob_abs_diff_max"])
    with pytest.raises(GuardTripped, match="logprob_abs_diff_mean between rollout engines and learner is nan"):
        check_logprobs(figures, GuardConfig(), 3)


def test_weights_that_did_not_arrive_trip_the_guard():
    with pytest.raises(GuardTripped, match=r"step 3: .* is 0\.2 over 2 tokens .*did not reach the engines"):
        check_logprobs(logprob_gaps([0.1, 0.3]), GuardConfig(), 3)


def test_nothing_to_compare_is_nothing_found():
    check_logprobs({}, GuardConfig(), 3)
