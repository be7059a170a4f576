"""Advantages: every baseline and scale by hand, against a separate float64 implementation, and by properties."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ssr1_rl.algorithm import advantage
from ssr1_rl.algorithm.advantage import RewardPart, step_advantages
from ssr1_rl.algorithm.variance import has_no_variance, teaches_nothing
from ssr1_rl.config.presets import PRESETS
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import GroupId, Question, RolloutGroup, ScoredGroup


def group_advantages(rewards, epsilon, **settings):
    return advantage.group_advantages(rewards, GrpoConfig(advantage_epsilon=epsilon, **settings))


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


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"advantage_scale": "none"}, (0.75, -0.25, -0.25, -0.25)),
        ({"baseline": "leave_one_out", "advantage_scale": "none"}, (1.0, -1 / 3, -1 / 3, -1 / 3)),
        ({"baseline": "leave_one_out"}, (1 / 0.5001, -1 / 3 / 0.5001, -1 / 3 / 0.5001, -1 / 3 / 0.5001)),
        ({"baseline": "none", "advantage_scale": "none"}, (1.0, 0.0, 0.0, 0.0)),
    ],
)
def test_baselines_and_scales_of_a_group_by_hand(settings, expected):
    assert group_advantages((1.0, 0.0, 0.0, 0.0), 1e-4, **settings) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Tokens 1, 1, 2 and 0 (masked) carry the values 4, 0, 2 and 100: mean 8 / 4 = 2, variance (4 + 4 + 0) / 4 = 2.
        ({"baseline": "batch_mean", "advantage_scale": "none"}, (2.0, -2.0, 0.0, 98.0)),
        ({"baseline": "batch_mean"}, (2.0, -2.0, 0.0, 98.0)),
        ({"baseline": "none"}, (4.0, 0.0, 2.0, 100.0)),
    ],
)
def test_statistics_of_the_batch_are_over_tokens_that_carry_loss(settings, expected):
    s = GrpoConfig(**{"advantage_scale": "batch_std"} | settings, advantage_epsilon=0.5)
    first, second = step_advantages([(4.0, 0.0), (2.0, 100.0)], [(1, 1), (2, 0)], s)
    divisor = 1.0 if settings.get("advantage_scale") == "none" else math.sqrt(2) + 0.5
    assert (*first.advantages_G, *second.advantages_G) == pytest.approx([value / divisor for value in expected])
    assert first.token_advantages == ()


def test_a_group_baseline_and_the_scale_of_the_batch():
    s = GrpoConfig(advantage_scale="batch_std", advantage_epsilon=1e-9)
    first, second = step_advantages([(1.0, 0.0), (3.0, 3.0)], [(5, 5), (5, 5)], s)
    # Centred: 0.5, -0.5, 0, 0, of standard deviation sqrt(1 / 8).
    assert first.advantages_G == pytest.approx((math.sqrt(2), -math.sqrt(2)))
    assert second.advantages_G == (0.0, 0.0)


@pytest.mark.parametrize("baseline", ["batch_mean", "none", "group_mean"])
def test_a_batch_whose_rewards_are_all_the_same_teaches_nothing(baseline):
    s = GrpoConfig(baseline=baseline, advantage_scale="batch_std")
    for group in step_advantages([(0.3, 0.1 + 0.2), (0.3, 0.3)], [(3, 4), (5, 6)], s):
        assert group.advantages_G == (0.0, 0.0)


def test_a_batch_without_any_loss_token():
    s = GrpoConfig(baseline="batch_mean", advantage_scale="batch_std")
    assert step_advantages([(1.0, 0.0)], [(0, 0)], s)[0].advantages_G == (0.0, 0.0)


KL = [[(0.1, 0.2, 0.3), (0.4,)], [(-0.2, 0.2), (0.5, 0.5)]]
TOKENS = [(3, 1), (2, 2)]


def test_kl_off_the_reward_by_hand():
    s = GrpoConfig(baseline="leave_one_out", advantage_scale="none", kl_placement="reward")
    first, second = step_advantages([(1.0, 0.0), (1.0, 1.0)], TOKENS, s, KL, 0.5)
    # Rewards 1 - 0.3, 0 - 0.2; 1 - 0, 1 - 0.5.
    assert first.advantages_G == pytest.approx((0.9, -0.9))
    assert second.advantages_G == pytest.approx((0.5, -0.5))
    assert first.token_advantages == ()


def test_kl_off_each_tokens_return_by_hand():
    s = GrpoConfig(advantage_scale="none", kl_placement="reward_to_go")
    first, second = step_advantages([(1.0, 0.0), (1.0, 1.0)], TOKENS, s, KL, 0.5)
    assert first.token_advantages[0] == pytest.approx((0.5 - 0.3, 0.5 - 0.25, 0.5 - 0.15))
    assert first.token_advantages[1] == pytest.approx((-0.5 - 0.2,))
    assert second.token_advantages == (pytest.approx((0.0, -0.1)), pytest.approx((-0.5, -0.25)))
    assert first.advantages_G == pytest.approx((0.8 / 3, -0.7))


def test_reinforce_pp_against_its_formula():
    rng = np.random.default_rng(0)
    lengths = [(5, 1), (9, 3), (2, 7)]
    rewards = rng.standard_normal((3, 2))
    kl = [[rng.standard_normal(n) for n in of_group] for of_group in lengths]
    values = PRESETS["reinforce_pp"].values
    beta = values["kl_coefficient"]
    found = step_advantages(rewards.tolist(), lengths, GrpoConfig(**values), kl, beta)
    # A_t = r - beta sum over i >= t of KL(i), then (A - mean A) / std A over every token of the batch.
    raw = [
        [[rewards[g, i] - beta * sum(kl[g][i][t:]) for t in range(lengths[g][i])] for i in range(2)] for g in range(3)
    ]
    every = [value for group in raw for response in group for value in response]
    mean = sum(every) / len(every)
    std = math.sqrt(sum((value - mean) ** 2 for value in every) / len(every))
    for group, expected in zip(found, raw, strict=True):
        for tokens, values_T in zip(group.token_advantages, expected, strict=True):
            assert tokens == pytest.approx([(value - mean) / (std + 1e-4) for value in values_T], rel=1e-9)


def by_the_papers(rewards, lengths, s):
    """Advantages of responses, group by group, in plain floats."""
    values = []
    for r in rewards:
        for i, reward in enumerate(r):
            others = [x for j, x in enumerate(r) if j != i]
            base = {"group_mean": sum(r) / len(r), "leave_one_out": sum(others) / len(others)}.get(s.baseline, 0.0)
            values.append(reward - base)
    weights = [n for group in lengths for n in group]
    mean = sum(v * n for v, n in zip(values, weights, strict=True)) / sum(weights)
    std = math.sqrt(sum(n * (v - mean) ** 2 for v, n in zip(values, weights, strict=True)) / sum(weights))
    if s.baseline == "batch_mean":
        values = [v - mean for v in values]
    if s.advantage_scale == "batch_std":
        values = [v / (std + s.advantage_epsilon) for v in values]
    if s.advantage_scale == "group_std":
        stds = [math.sqrt(sum((x - sum(r) / len(r)) ** 2 for x in r) / (len(r) - 1)) for r in rewards for _ in r]
        values = [v / (d + s.advantage_epsilon) for v, d in zip(values, stds, strict=True)]
    return values


PAIRS = [
    (baseline, scale)
    for baseline in ("group_mean", "leave_one_out", "batch_mean", "none")
    for scale in ("group_std", "batch_std", "none")
    if scale != "group_std" or baseline in ("group_mean", "leave_one_out")
]


@pytest.mark.parametrize(("baseline", "scale"), PAIRS)
def test_every_pair_against_an_implementation_of_its_own(baseline, scale):
    rng = np.random.default_rng(1)
    s = GrpoConfig(baseline=baseline, advantage_scale=scale)
    rewards, lengths = rng.normal(0.5, 1, (4, 5)).tolist(), rng.integers(1, 30, (4, 5)).tolist()
    found = step_advantages(rewards, lengths, s)
    assert [a for group in found for a in group.advantages_G] == pytest.approx(by_the_papers(rewards, lengths, s))


STEPS = st.lists(
    st.lists(st.integers(-1000, 1000).map(lambda x: x / 100), min_size=2, max_size=6), min_size=1, max_size=4
)


def tokens_of(rewards):
    return [[1 + (i + len(group)) % 5 for i in range(len(group))] for group in rewards]


@given(STEPS, st.sampled_from(["group_mean", "leave_one_out"]), st.sampled_from(["group_std", "batch_std", "none"]))
def test_a_group_baseline_makes_every_group_sum_to_0(rewards, baseline, scale):
    for group in step_advantages(rewards, tokens_of(rewards), GrpoConfig(baseline=baseline, advantage_scale=scale)):
        assert sum(group.advantages_G) == pytest.approx(0.0, abs=1e-7)


@given(STEPS, st.sampled_from([p for p in PAIRS if p[0] != "none"]), st.integers(-20, 20))
def test_no_baseline_sees_a_shift_of_all_rewards(rewards, pair, shift):
    s = GrpoConfig(baseline=pair[0], advantage_scale=pair[1])
    shifted = [[reward + shift for reward in group] for group in rewards]
    for before, after in zip(
        step_advantages(rewards, tokens_of(rewards), s), step_advantages(shifted, tokens_of(rewards), s), strict=True
    ):
        assert after.advantages_G == pytest.approx(before.advantages_G, abs=1e-6)


@given(STEPS, st.sampled_from([p for p in PAIRS if p[1] != "none"]), st.sampled_from([0.5, 3.0, 10.0]))
def test_no_standard_deviation_sees_a_scale_of_all_rewards(rewards, pair, factor):
    assume(not any(has_no_variance(group) for group in rewards))
    s = GrpoConfig(baseline=pair[0], advantage_scale=pair[1], advantage_epsilon=1e-12)
    scaled = [[reward * factor for reward in group] for group in rewards]
    for before, after in zip(
        step_advantages(rewards, tokens_of(rewards), s), step_advantages(scaled, tokens_of(rewards), s), strict=True
    ):
        assert after.advantages_G == pytest.approx(before.advantages_G, rel=1e-6, abs=1e-6)


def test_each_reward_is_relative_to_its_own_group_and_those_without_variance_add_nothing():
    s = GrpoConfig(normalize_each_reward=True, advantage_epsilon=1e-12)
    parts = [[RewardPart(2.0, (1.0, 0.0)), RewardPart(5.0, (0.3, 0.1 + 0.2))]]
    [found] = step_advantages([(3.5, 1.5)], [(1, 1)], s, parts=parts)
    assert found.advantages_G == pytest.approx((math.sqrt(2), -math.sqrt(2)))


def test_a_reward_that_does_not_apply_adds_nothing_and_is_not_in_its_statistics():
    s = GrpoConfig(normalize_each_reward=True, advantage_epsilon=1e-12)
    nan = math.nan
    parts = [[RewardPart(1.0, (1.0, nan, 0.0)), RewardPart(1.0, (nan, nan, 7.0)), RewardPart(1.0, (nan, nan, nan))]]
    [found] = step_advantages([(0.0, 0.0, 0.0)], [(1, 1, 1)], s, parts=parts)
    assert found.advantages_G == pytest.approx((math.sqrt(0.5), 0.0, -math.sqrt(0.5)))


def test_two_rewards_that_cancel_out_in_the_sum_still_teach():
    question, parts = Question("q", "?", "yes"), {"accuracy": (1.0, 0.0), "format": (0.0, 1.0)}
    scored = ScoredGroup(RolloutGroup(GroupId(0, "q"), question, ()), (1.0, 1.0), parts)
    each, weights = GrpoConfig(normalize_each_reward=True), {"accuracy": 1.0, "format": 1.0}
    assert teaches_nothing(scored, GrpoConfig(), weights)
    assert not teaches_nothing(scored, each, weights)
    without = ScoredGroup(scored.group, (1.0, 0.0), {"a": (1.0, 1.0), "b": (None, 3.0)})
    assert teaches_nothing(without, each, {"a": 1.0, "b": 1.0}), "a reward of one response compares nothing"


def test_a_reward_of_weight_0_alone_teaches_nothing():
    question, parts = Question("q", "?", "yes"), {"accuracy": (1.0, 1.0), "length": (3.0, 9.0)}
    scored = ScoredGroup(RolloutGroup(GroupId(0, "q"), question, ()), (1.0, 1.0), parts)
    each = GrpoConfig(normalize_each_reward=True)
    assert teaches_nothing(scored, each, {"accuracy": 1.0, "length": 0.0})
    assert not teaches_nothing(scored, each, {"accuracy": 1.0, "length": -0.5})


@pytest.mark.parametrize("statistics", ["tokens", "responses"])
@pytest.mark.parametrize("baseline", ["group_mean", "none", "batch_mean"])
def test_a_batch_of_equal_rewards_has_no_advantages_by_any_deviation(baseline, statistics):
    for settings in ({"advantage_scale": "batch_reward_std"}, {"advantage_scale": "none", "whiten_advantages": True}):
        s = GrpoConfig(baseline=baseline, batch_statistics=statistics, **settings)
        for group in step_advantages([(0.3, 0.1 + 0.2), (0.3, 0.3)], [(3, 4), (5, 6)], s):
            assert group.advantages_G == (0.0, 0.0)


def test_a_single_response_in_the_loss_has_no_deviation():
    s = GrpoConfig(whiten_advantages=True, batch_statistics="responses", advantage_scale="none")
    [found] = step_advantages([(1.0, 0.0)], [(5, 0)], s)
    assert found.advantages_G == (0.0, 0.0)


def test_statistics_over_responses_do_not_see_their_lengths():
    s = GrpoConfig(advantage_scale="batch_std", batch_statistics="responses")
    rewards = [(1.0, 0.0, 0.5), (0.0, 0.25, 1.0)]
    same, other = (step_advantages(rewards, n, s) for n in ([(1, 1, 1)] * 2, [(1, 20, 300), (7, 8, 9)]))
    assert same == other
    tokens = replace(s, batch_statistics="tokens")
    assert step_advantages(rewards, [(1, 20, 300), (7, 8, 9)], tokens) != same


def test_token_returns_over_responses_weigh_every_response_alike():
    s = GrpoConfig(
        baseline="batch_mean", advantage_scale="none", kl_placement="reward_to_go", batch_statistics="responses"
    )
    [found] = step_advantages([(1.0, 0.0)], [(3, 1)], s, [[(0.0, 0.0, 0.0), (0.0,)]], 0.5)
    assert found.token_advantages == (pytest.approx((0.5, 0.5, 0.5)), pytest.approx((-0.5,)))
