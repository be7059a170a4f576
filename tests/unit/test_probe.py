"""The figures of the probe: one for the guard, whatever it finds."""

import math

import pytest

from ssr1_rl.config.sections.watch import GuardConfig
from ssr1_rl.faults.guards import GuardTripped, check_logprobs
from ssr1_rl.probe import SyncProbe, logprob_gaps
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.types import Completion, PreparedQuestion, Question, RolloutGroup

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


class Pool:
    """A double: one engine, whose answer has these log-probs."""

    num_workers = 1

    def __init__(self, logprobs):
        self.logprobs = logprobs

    async def generate(self, group_id, prepared, sampling, worker):
        completion = Completion((5,) * len(self.logprobs), self.logprobs, "x", "stop")
        return RolloutGroup(group_id, prepared.question, (completion,), 4)


class Learners:
    """A double: one rank, for which every token has a log-prob of -1."""

    num_ranks = 1

    async def logprobs(self, groups):
        return [tuple((-1.0,) * len(response) for response in group.responses) for group in groups]


@pytest.mark.parametrize(
    ("logprobs", "figures"),
    [
        ((-1.1, NAN, -math.inf, math.inf, 0.5, -1.3), logprob_gaps([0.1, 0.3])),
        ((NAN, NAN), {}),
    ],
)
async def test_a_log_prob_that_an_engine_got_wrong_now_and_then_is_not_compared(logprobs, figures):
    probe = SyncProbe(Pool(logprobs), Learners(), Sampling(1, 8))
    probe.start(PreparedQuestion(Question("q", "?", "yes"), (1, 2)), 4)
    assert await probe.finish() == pytest.approx(figures)


def test_nothing_to_compare_is_nothing_found():
    check_logprobs({}, GuardConfig(), 3)
