"""When failed groups stop the run."""

import pickle

import pytest

from ssr1_rl.faults.budget import MIN_WINDOW, FailedGroup, FailureBudget, RewardFailure
from ssr1_rl.types import GroupId, Question, RolloutGroup, ScoredGroup


def scored() -> ScoredGroup:
    question = Question(id="q", text="?", ground_truth="dog")
    return ScoredGroup(RolloutGroup(GroupId(0, "q"), question, ()), (), {})


def failed(question_id: str = "q7") -> FailedGroup:
    return FailedGroup(GroupId(0, question_id), "brevity", question_id, "train.json row 7", "ValueError: bad", 3)


def num_failures_until_stop(budget: FailureBudget, most: int = 1000) -> int:
    for count in range(1, most + 1):
        try:
            budget.record(failed())
        except RewardFailure:
            return count
    return -1


@pytest.mark.parametrize(
    ("max_failed_share", "questions_per_step", "expected"),
    [
        (0.1, 100, 11),  # 10 of 100 are allowed
        (0.1, 4, 3),  # a window is at least 20 groups: 2 are allowed
        (0.0, 4, 1),
        (0.5, 20, 11),
        (1.0, 20, -1),
    ],
)
def test_stops_above_the_share_of_a_whole_window(max_failed_share, questions_per_step, expected):
    assert MIN_WINDOW == 20
    assert num_failures_until_stop(FailureBudget(max_failed_share, questions_per_step)) == expected


def test_scored_groups_push_old_failures_out():
    budget = FailureBudget(0.1, 20)
    for _ in range(50):
        budget.record(failed())
        for _ in range(9):
            budget.record(scored())
    assert budget.failed_share == 0.1
    budget.record(failed())  # in place of the oldest failure
    with pytest.raises(RewardFailure):
        budget.record(failed())


def test_error_names_function_question_source_error_and_fix():
    budget = FailureBudget(0.0, 64)
    with pytest.raises(RewardFailure) as caught:
        budget.record(failed())
    message = str(caught.value)
    for part in ("'brevity'", "'q7'", "train.json row 7", "ValueError: bad", "1 of the newest 64", "max_failed_share"):
        assert part in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message
