"""From scored groups to the learners' batch: overlong responses, the KL term's weight, and all together."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssr1_rl.algorithm.adaptive_kl import KlCoefficient
from ssr1_rl.algorithm.overlong import overlong_penalty
from ssr1_rl.algorithm.step_batch import mean_kl, nothing_in_loss, num_loss_tokens, train_group, with_advantages
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import Completion, GroupId, PreparedQuestion, Question, RolloutGroup, ScoredGroup


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)]
)
def test_overlong_penalty_by_hand(num_tokens, penalty):
    assert overlong_penalty(num_tokens, 100, 0.2) == pytest.approx(penalty)


@given(st.integers(0, 300), st.integers(1, 200), st.floats(0.01, 1.0))
def test_overlong_penalty_against_the_papers_cases(num_tokens, longest, share):
    cache = share * longest
    if num_tokens <= longest - cache:
        expected = 0.0
    elif num_tokens <= longest:
        expected = ((longest - cache) - num_tokens) / cache
    else:
        expected = -1.0
    assert overlong_penalty(num_tokens, longest, share) == pytest.approx(expected, abs=1e-9)


def test_a_fixed_coefficient_stays_and_is_what_the_settings_say():
    fixed = KlCoefficient(GrpoConfig(kl_coefficient=0.1))
    fixed.observe(5.0)
    fixed.resume(0.7)
    assert fixed.value == 0.1


@pytest.mark.parametrize(("measured", "factor"), [(0.11, 1.01), (0.09, 0.99), (0.1, 1.0), (5.0, 1.02), (-1.0, 0.98)])
def test_the_coefficient_follows_its_target_by_hand(measured, factor):
    adapted = KlCoefficient(GrpoConfig(kl_coefficient=0.5, kl_target=0.1))
    adapted.observe(measured)
    assert adapted.value == pytest.approx(0.5 * factor)


def test_an_adapted_coefficient_goes_on_from_a_checkpoint():
    adapted = KlCoefficient(GrpoConfig(kl_coefficient=0.5, kl_target=0.1))
    adapted.resume(0.7)
    assert adapted.value == 0.7
    adapted.resume(0.0)
    assert adapted.value == 0.7, "the run before had no KL term: nothing to resume"


def completion(num_tokens, finish_reason="stop"):
    return Completion((5,) * num_tokens, (-1.0,) * num_tokens, "x", finish_reason)


def batch_of(rewards, completions, kl=(), kl_coefficient=0.0, **settings):
    grpo = GrpoConfig(advantage_scale="none", **settings)
    question = Question("q", "?", "yes")
    scored = ScoredGroup(RolloutGroup(GroupId(0, "q"), question, tuple(completions), 3), rewards, {})
    group = train_group(scored, PreparedQuestion(question, (1, 2), ()), grpo)
    [found] = with_advantages([group], [scored], grpo, 10, kl, kl_coefficient)
    return found


def test_a_group_as_the_learners_take_it():
    group = batch_of((1.0, 0.0), [completion(2), completion(10, "length")])
    assert (group.prompt_token_ids, group.responses, group.submitted_version) == ((1, 2), ((5,) * 2, (5,) * 10), 3)
    assert group.rollout_logprobs == ((-1.0,) * 2, (-1.0,) * 10)
    assert (group.advantages_G, group.token_advantages) == ((0.5, -0.5), ())
    assert num_loss_tokens(group) == [2, 10]


def test_overlong_responses_are_masked_but_count_in_the_groups_mean():
    group = batch_of((1.0, 0.0), [completion(2), completion(10, "length")], overlong="mask")
    assert group.advantages_G == (0.5, -0.5)
    assert num_loss_tokens(group) == [2, 0]
    assert num_loss_tokens(batch_of((1.0, 0.0), [completion(10), completion(2)], overlong="mask")) == [10, 2]


def test_overlong_responses_are_penalised_in_the_reward():
    group = batch_of((1.0, 1.0), [completion(10, "length"), completion(9)], overlong="penalty")
    assert group.advantages_G == pytest.approx((-0.25, 0.25))  # rewards 1 - 1 and 1 - 0.5
    assert num_loss_tokens(group) == [10, 9]


def test_masked_and_penalised_at_once():
    """The response at the limit is not trained on, but its penalty counts in the group's mean."""
    group = batch_of((1.0, 1.0), [completion(10, "length"), completion(9)], overlong="mask_and_penalty")
    assert group.advantages_G == pytest.approx((-0.25, 0.25))
    assert num_loss_tokens(group) == [0, 9]


def test_the_penalty_has_a_factor():
    group = batch_of((1.0, 1.0), [completion(10, "length"), completion(9)], overlong="penalty", overlong_penalty=0.4)
    assert group.advantages_G == pytest.approx((-0.1, 0.1))


def test_each_reward_has_its_weight_and_the_penalty_is_one_of_them():
    grpo = GrpoConfig(normalize_each_reward=True, overlong="penalty", overlong_penalty=3.0, advantage_epsilon=1e-12)
    question = Question("q", "?", "yes")
    completions = (completion(2), completion(2), completion(10, "length"))
    # The penalties are 0, 0 and -1: 1 / 3, 1 / 3 and -2 / 3 of a deviation of 1 / sqrt 3.
    breakdown = {"accuracy": (1.0, 0.0, None), "format": (0.0, 0.0, 0.0)}
    scored = ScoredGroup(RolloutGroup(GroupId(0, "q"), question, completions), (2.0, 0.0, 0.0), breakdown)
    group = train_group(scored, PreparedQuestion(question, (1,)), grpo)
    [found] = with_advantages([group], [scored], grpo, 10, reward_weights={"accuracy": 2.0})
    penalty = 3.0 / math.sqrt(3)
    assert found.advantages_G == pytest.approx((math.sqrt(2) + penalty, -math.sqrt(2) + penalty, -2 * penalty))


def test_a_step_without_a_token_in_the_loss_is_said_with_the_mend():
    assert "teaches nothing (grpo.overlong=mask masks those" in nothing_in_loss(3, GrpoConfig(overlong="mask"))
    assert nothing_in_loss(3, GrpoConfig()).endswith("teaches nothing")


def test_kl_per_token_reaches_the_learners():
    kl = [[(0.1, 0.3), (0.2,)]]
    group = batch_of((1.0, 0.0), [completion(2), completion(1)], kl, 1.0, kl_placement="reward_to_go")
    assert group.token_advantages == (pytest.approx((0.1, 0.2)), pytest.approx((-0.7,)))
    assert mean_kl(kl) == pytest.approx(0.2)
    assert mean_kl([]) == 0.0
