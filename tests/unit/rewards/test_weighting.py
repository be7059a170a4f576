"""The sum of a group's rewards, and completions that no reward function applies to."""

import pytest

from ssr1_rl.faults.budget import FailedGroup
from ssr1_rl.rewards.weighting import weighted
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup


def group(num_completions=3):
    completions = tuple(Completion((i,), (0.0,), str(i), "stop") for i in range(num_completions))
    return RolloutGroup(GroupId(0, "q"), Question("q", "?", "yes", source="train.json row 7"), completions)


def test_a_reward_of_none_adds_nothing_and_the_other_weights_stay_as_they_are():
    breakdown = {"a": (1.0, None, 0.5), "b": (1.0, 1.0, None)}
    scored = weighted(group(), breakdown, {"a": 1.0, "b": 0.5})
    assert isinstance(scored, ScoredGroup)
    assert scored.rewards_G == (1.5, 0.5, 0.5)
    assert scored.breakdown == breakdown
    assert (scored.group, scored.num_unscored) == (group(), 0)


def test_a_completion_without_any_reward_is_left_out_and_counted():
    scored = weighted(group(), {"a": (1.0, None, 0.0), "b": (0.0, None, 1.0)}, {"a": 1.0, "b": 2.0})
    assert isinstance(scored, ScoredGroup)
    assert scored.rewards_G == (1.0, 2.0)
    assert scored.breakdown == {"a": (1.0, 0.0), "b": (0.0, 1.0)}
    assert [completion.text for completion in scored.group.completions] == ["0", "2"]
    assert scored.num_unscored == 1


def test_a_reward_of_weight_0_is_no_reward_for_a_completion_that_nothing_else_applies_to():
    scored = weighted(group(), {"a": (1.0, None, 0.0), "length": (5.0, 6.0, 7.0)}, {"a": 1.0, "length": 0.0})
    assert isinstance(scored, ScoredGroup)
    assert (scored.rewards_G, scored.breakdown["length"]) == ((1.0, 0.0), (5.0, 7.0))
    only = weighted(group(), {"length": (5.0, 6.0, 7.0)}, {"length": 0.0})
    assert isinstance(only, ScoredGroup) and only.rewards_G == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(("rewards", "num"), [((None, None, None), 3), ((None, 1.0, None), 2)])
def test_a_group_with_fewer_than_two_rewards_is_set_aside(rewards, num):
    failed = weighted(group(), {"a": rewards, "b": (None,) * 3}, {"a": 1.0, "b": 1.0})
    assert isinstance(failed, FailedGroup)
    assert (failed.reward_name, failed.source, failed.attempts) == ("a, b", "train.json row 7", 1)
    assert failed.error.startswith(f"it returned None (does not apply) for {num} of 3 completions")


def test_one_reward_is_enough_for_the_one_answer_of_a_validation_question():
    scored = weighted(group(1), {"a": (1.0,)}, {"a": 1.0})
    assert isinstance(scored, ScoredGroup) and scored.rewards_G == (1.0,)
    assert isinstance(weighted(group(1), {"a": (None,)}, {"a": 1.0}), FailedGroup)
