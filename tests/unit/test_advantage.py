"""Group-relative advantages, by hand and by their laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssr1_rl.trainer.advantage import group_advantages, has_no_variance

REWARDS = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=16)


@pytest.mark.parametrize(
    ("rewards", "epsilon", "expected"),
    [
        # mean 0.25, sample std sqrt((0.75^2 + 3 * 0.25^2) / 3) = 0.5
        ((1.0, 0.0, 0.0, 0.0), 0.0001, (0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001)),
        # mean 2, sample std 1: epsilon is added to it, not to the variance
        ((1.0, 2.0, 3.0), 1.0, (-0.5, 0.0, 0.5)),
        ((0.0, 1.0), 1e-12, (-math.sqrt(0.5), math.sqrt(0.5))),
    ],
)
def test_by_hand(rewards, epsilon, expected):
    assert group_advantages(rewards, epsilon) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "rewards",
    [(1.0,) * 8, (0.0, 0.0), (0.1 + 0.2, 0.3, 0.3), (1.2, 1.0 + 0.2 * 1.0, 0.6 * 2), (1e6 + 0.1, 1e6 + 0.2)],
)
def test_a_group_that_teaches_nothing_has_advantages_of_exactly_0(rewards):
    assert has_no_variance(rewards)
    assert group_advantages(rewards, 1e-4) == (0.0,) * len(rewards)


def test_a_small_difference_is_no_float_error():
    assert not has_no_variance((0.0, 1e-5))
    low, high = group_advantages((0.0, 1e-5), 1e-6)
    assert low == pytest.approx(-high)
    assert high > 0.5


def test_one_reward_is_refused():
    with pytest.raises(ValueError, match=r"at least 2 rewards.* got 1"):
        group_advantages((1.0,), 1e-4)


@given(REWARDS)
def test_advantages_sum_to_0_and_keep_the_order(rewards):
    advantages = group_advantages(rewards, 1e-4)
    assert sum(advantages) == pytest.approx(0.0, abs=1e-7)
    for (r1, a1), (r2, a2) in zip(*[list(zip(rewards, advantages, strict=True))] * 2, strict=True):
        assert (r1 <= r2) == (a1 <= a2) or has_no_variance(rewards)


@given(REWARDS, st.integers(-20, 20), st.randoms())
def test_shifting_all_rewards_changes_nothing_and_shuffling_shuffles(rewards, shift, random):
    advantages = group_advantages(rewards, 1e-4)
    shifted = [reward + shift for reward in rewards]
    if not has_no_variance(rewards) and not has_no_variance(shifted):
        assert group_advantages(shifted, 1e-4) == pytest.approx(advantages, abs=1e-6)
    order = random.sample(range(len(rewards)), len(rewards))
    shuffled = group_advantages([rewards[i] for i in order], 1e-4)
    assert shuffled == pytest.approx([advantages[i] for i in order], abs=1e-9)
