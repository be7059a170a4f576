"""A run whose responses all get equal rewards says so once, and what to do about it."""

import pytest

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.faults.no_signal import MIN_STEPS, NoSignal
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup

TAGS = [RewardConfig(name="accuracy"), RewardConfig(name="format")]
DIFFERENT = (0.0, 1.0)


def step(*rewards, text="cat", finish_reason="stop"):
    """The groups of one step, one per pair of rewards."""
    groups = []
    for index, rewards_G in enumerate(rewards):
        completions = tuple(Completion((1,), (0.0,), text, finish_reason) for _ in rewards_G)
        group = RolloutGroup(GroupId(0, str(index)), Question(str(index), "Which?", "cat"), completions)
        groups.append(ScoredGroup(group, rewards_G, {"accuracy": rewards_G}))
    return groups


def said(steps, rewards=TAGS, within_groups=True):
    watch = NoSignal(rewards, within_groups, max_response_tokens=64)
    return [watch.record(groups) for groups in steps]


def test_it_is_said_once_after_some_steps():
    lines = said([step((0.0, 0.0), (0.0, 0.0))] * (3 * MIN_STEPS))
    assert [bool(line) for line in lines].index(True) == MIN_STEPS - 1
    assert sum(map(len, lines)) == 1


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_one_group_with_a_difference_starts_the_count_again(reward):
    dead, alive = step((reward, reward), (0.0, 0.0)), step((reward, reward), DIFFERENT)
    steps = ([dead] * (MIN_STEPS - 1) + [alive]) * 3
    assert not any(said(steps))
    assert any(said([*steps, *[dead] * MIN_STEPS]))


def test_responses_without_tags_name_what_lets_them_score():
    line = said([step((0.0, 0.0))] * MIN_STEPS)[-1][0]
    assert "every response got reward 0" in line and "100% of the responses hold no <answer> </answer>" in line
    assert "SFT" in line and "rewards[0].options.require_tags=false or rewards[1].options.partial_credit=true" in line


def test_what_is_set_already_is_not_advised():
    lax = [RewardConfig(name="accuracy", options={"require_tags": False}), RewardConfig(path="mine.py:f")]
    line = said([step((0.0, 0.0))] * MIN_STEPS, lax)[-1][0]
    assert "require_tags" not in line and "SFT" not in line and "Check the reward functions" in line


def test_truncated_responses_are_named():
    line = said([step((0.0, 0.0), finish_reason="length")] * MIN_STEPS)[-1][0]
    assert "100% of the responses are cut at rollout.max_response_tokens=64: raise it" in line


def test_a_perfect_policy_is_told_that_its_questions_may_be_too_easy():
    line = said([step((1.0, 1.0), text="<answer>cat</answer>")] * MIN_STEPS)[-1][0]
    assert "every response got reward 1" in line and "too easy" in line


def test_groups_that_differ_only_from_one_another_give_no_signal():
    line = said([step((1.0, 1.0), (0.0, 0.0), text="<answer>cat</answer>")] * MIN_STEPS)[-1][0]
    assert "the same reward within each question" in line


def test_with_another_baseline_questions_are_compared_too():
    steps = [step((1.0, 1.0), (0.0, 0.0))] * MIN_STEPS
    assert not any(said(steps, within_groups=False))
    assert any(said([step((1.0, 1.0), (1.0, 1.0))] * MIN_STEPS, within_groups=False))
