"""Checks that stop a run: engine against learner, in log-probs and weights."""

import pickle

import pytest

from ssr1_rl.config.sections.watch import GuardConfig
from ssr1_rl.errors import RunError
from ssr1_rl.faults.guards import GuardTripped, check_rollout_logprobs, check_update, check_weights
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup

LIMITS = GuardConfig(max_logprob_abs_diff_mean=0.05, max_logprob_abs_diff=0.5)
NAN = float("nan")


def metrics(mean=0.0, largest=0.0, comparable=100.0):
    return {
        "loss": 0.1,
        "grad_norm": 1.0,
        "kl_to_rollout": 0.001,
        "logprob_abs_diff_mean": mean,
        "logprob_abs_diff_max": largest,
        "comparable_tokens": comparable,
    }


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            metrics(mean=0.0501),
            r"step 7: logprob_abs_diff_mean .* is 0\.0501 over 100 tokens.*guard\.max_logprob_abs_diff_mean=0\.05",
        ),
        (
            metrics(mean=0.01, largest=0.51),
            r"logprob_abs_diff_max .* is 0\.51 .*above guard\.max_logprob_abs_diff=0\.5",
        ),
        (metrics(mean=NAN), r"logprob_abs_diff_mean .* is nan"),
        (metrics(largest=NAN), r"logprob_abs_diff_max .* is nan"),
        (metrics(mean=float("inf"), largest=float("inf")), r"is inf"),
    ],
)
def test_a_gap_above_the_limit_stops_the_run(figures, message):
    with pytest.raises(GuardTripped, match=message):
        check_update(figures, LIMITS, 7)


@pytest.mark.parametrize(
    "figures", [metrics(0.05, 0.5), metrics(), metrics(9.0, 9.0, comparable=0.0), metrics(NAN, NAN, comparable=0.0)]
)
def test_at_the_limit_or_without_comparable_tokens_it_goes_on(figures):
    check_update(figures, LIMITS, 7)


def test_the_default_leaves_the_largest_gap_free():
    check_update(metrics(0.04, 30.0), GuardConfig(), 1)


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["loss", "grad_norm", "kl_to_rollout"])
def test_a_figure_that_is_no_number_stops_the_run(name, value):
    with pytest.raises(GuardTripped, match=rf"{name} is {value}"):
        check_update(metrics(comparable=0.0) | {name: value}, LIMITS, 7)


def test_a_maximum_of_nan_is_nan():
    from ssr1_rl.trainer.totals import Totals

    totals = Totals()
    totals.add_maxima(logprob_abs_diff=NAN)
    assert totals.maxima["logprob_abs_diff"] != totals.maxima["logprob_abs_diff"]


def scored(logprobs, worker="rollout worker 1"):
    completion = Completion((5,) * len(logprobs), tuple(logprobs), "x", "stop")
    group = RolloutGroup(GroupId(0, "q"), Question("q", "?", "yes"), (completion,), 0, worker)
    return ScoredGroup(group, (1.0,), {})


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf"), 0.1])
def test_log_probs_that_are_none_stop_the_run_above_their_share_and_name_the_worker(bad):
    steps = [scored([-1.0] * 97 + [bad]), scored([-1.0, bad], "rollout worker 0")]
    check_rollout_logprobs(steps, GuardConfig(max_unusable_logprob_share=0.02), 7)
    message = (
        r"step 7: 2 of the 100 log-probs .* \(1 of rollout worker 1, 1 of rollout worker 0\), more than guard\.max"
    )
    with pytest.raises(GuardTripped, match=message):
        check_rollout_logprobs(steps, GuardConfig(max_unusable_logprob_share=0.019), 7)


def test_a_share_of_0_allows_none_and_a_step_without_tokens_passes():
    with pytest.raises(GuardTripped, match=r"1 of the 101 .*\(1 of an unknown worker\)"):
        check_rollout_logprobs([scored([-1.0] * 100 + [NAN], "")], GuardConfig(max_unusable_logprob_share=0.0), 1)
    check_rollout_logprobs([scored([])], GuardConfig(max_unusable_logprob_share=0.0), 1)
    check_rollout_logprobs([], GuardConfig(), 1)


def test_a_tripped_guard_is_explained_to_the_user_and_survives_pickling():
    error = pickle.loads(pickle.dumps(GuardTripped("step 3: why")))
    assert isinstance(error, RunError)
    assert str(error) == "step 3: why"


LEARNER = {"a": "01", "b": "02", "c": "03"}


def report(untouched=(), **changed):
    return {"digests": {k: v for k, v in (LEARNER | changed).items() if v}, "untouched": list(untouched)}


def test_equal_weights_pass():
    check_weights(LEARNER, [[report(), report()], [report(), report()]])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            report(b=""),
            r"rollout worker 1, tensor-parallel rank 0, .*\(3 tensors sent\): 1 did not arrive, for example b\.",
        ),
        (report(z="09"), r"rollout worker 1, .*1 are unknown to the learner, for example z\."),
        (report(a="ff", c="ff"), r"rollout worker 1, .*2 differ on arrival, for example a\."),
        (report(["model.norm"]), r"1 are its own parameters that no tensor was loaded into, for example model\.norm\."),
    ],
)
def test_each_finding_stops_the_run_and_names_the_worker(wrong, message):
    with pytest.raises(GuardTripped, match=message):
        check_weights(LEARNER, [[report()], [wrong]])
    with pytest.raises(GuardTripped, match="rollout worker 0, tensor-parallel rank 1,"):
        check_weights(LEARNER, [[report(), wrong], [report(), report()]])
