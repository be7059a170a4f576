"""Every preset against its paper's formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssr1_rl.algorithm.advantage import RewardPart, step_advantages
from ssr1_rl.algorithm.loss import loss_denominator
from ssr1_rl.algorithm.overlong import overlong_penalty
from ssr1_rl.config.presets import PRESETS
from ssr1_rl.config.sections.grpo import GrpoConfig
from tests.unit.losses import OLD, gradient, loss_of

# Each paper's objective (negated) for responses of 2 and 1 tokens with ratios x, y and z, and advantages a and b.
FORMULAS = {
    "grpo": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a) - 2 * kl) / 4 - (clip(z, b) - kl) / 2,
    "dapo": lambda x, y, z, a, b, kl: -(clip(x, a, 0.2, 0.28) + clip(y, a, 0.2, 0.28) + clip(z, b, 0.2, 0.28)) / 3,
    "dr_grpo": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a) + clip(z, b)) / (2 * 512),
    "gspo": lambda x, y, z, a, b, kl: -(clip(math.sqrt(x * y), a, 3e-4, 4e-4) + clip(z, b, 3e-4, 4e-4)) / 2,
    "cispo": lambda x, y, z, a, b, kl: (
        -sum(min(r, 5.0) * advantage * (OLD + math.log(r)) for r, advantage in ((x, a), (y, a), (z, b))) / 3
    ),
    "rloo": lambda x, y, z, a, b, kl: (
        -sum(min(r, 2.0) * advantage * (OLD + math.log(r)) for r, advantage in ((x, a), (y, a), (z, b))) / (2 * 512)
    ),
    "reinforce_pp": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a) + clip(z, b)) / 3,
    # k2 = d^2 / 2 with d = -1.
    "reinforce_pp_baseline": lambda x, y, z, a, b, kl: (
        -(clip(x, a) + clip(y, a) + clip(z, b) - 3 * kl / (math.e - 2) / 2) / 3
    ),
    "lite_ppo": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a) + clip(z, b)) / 3,
    "gdpo": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a)) / 4 - clip(z, b) / 2,
    # The advantages are positive and negative: the ratio is bounded above and below.
    "gmpo": lambda x, y, z, a, b, kl: (
        -(a * math.sqrt(min(x, math.exp(0.4)) * min(y, math.exp(0.4))) + b * max(z, math.exp(-0.4))) / 2
    ),
    "sapo": lambda x, y, z, a, b, kl: -(gate(x, 1.0) * a + gate(y, 1.0) * a) / 4 - gate(z, 1.05) * b / 2,
    "icepop": lambda x, y, z, a, b, kl: -(clip(x, a) + clip(y, a)) / 4 - clip(z, b) / 2,
}


def gate(ratio, temperature):
    return 4 / temperature / (1 + math.exp(-temperature * (ratio - 1)))


def clip(ratio, advantage, low=0.2, high=0.2):
    return min(ratio * advantage, min(max(ratio, 1 - low), 1 + high) * advantage)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("ratios", [(1.1, 0.9, 1.05), (1.25, 0.5, 6.0), (1.0001, 1.0002, 0.9999)])
def test_presets_against_their_papers(name, ratios):
    values = PRESETS[name].values | {"denominator_tokens": 512}
    beta = values["kl_coefficient"]
    a, b = 1.3, -0.7
    # A reference whose ratio to the policy is e for every token: k3 = e - 1 - 1.
    ref = [OLD + math.log(ratio) + 1.0 for ratio in ratios]
    denominator = loss_denominator(3, 2, GrpoConfig(**values))
    terms, _ = loss_of(ratios, [a, a, b], denominator, [0, 0, 1], ref=ref, kl=beta, **values)
    assert terms.loss.item() == pytest.approx(FORMULAS[name](*ratios, a, b, beta * (math.e - 2)), rel=1e-9)


def test_rloo_is_reinforce_with_the_other_responses_mean_as_baseline():
    grpo = GrpoConfig(**PRESETS["rloo"].values, denominator_tokens=512)
    rewards, lengths, beta = [1.0, 0.2, 0.4], [3, 1, 2], grpo.kl_coefficient
    # k1 of every token is its log-prob less the reference's.
    kl = [[0.5, -0.1, 0.2], [0.3], [-0.2, 0.1]]
    [found] = step_advantages([rewards], [lengths], grpo, [kl], beta)
    index = [0, 0, 0, 1, 2, 2]
    # The engine's policy is the learner's: every ratio is 1.
    terms, logprobs = loss_of(
        [1.0] * 6, [found.advantages_G[i] for i in index], loss_denominator(6, 3, grpo), index, **PRESETS["rloo"].values
    )
    slopes = gradient(terms, logprobs)
    r = [reward - beta * sum(kl_T) for reward, kl_T in zip(rewards, kl, strict=True)]
    b = [(r[1] + r[2]) / 2, (r[0] + r[2]) / 2, (r[0] + r[1]) / 2]
    # -(r - b) grad log pi(response): the same slope for each of its tokens.
    assert slopes == pytest.approx([-(r[i] - b[i]) / (3 * 512) for i in index], rel=1e-9)


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(-10, 10)), min_size=1, max_size=6))
def test_rloo_weights_no_token_by_more_than_2(drawn):
    """REINFORCE with truncated weights: the gradient of a token is min(ratio, 2) A, whatever the engine says."""
    log_ratios, advantages = zip(*drawn, strict=True)
    terms, logprobs = loss_of([math.exp(x) for x in log_ratios], advantages, **PRESETS["rloo"].values)
    expected = [-min(math.exp(max(x, -20.0)), 2.0) * a for x, a in zip(log_ratios, advantages, strict=True)]
    assert gradient(terms, logprobs) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_dapos_penalty_is_scaled_to_rewards_of_0_and_1():
    """DAPO's own rewards are 1 and -1: a right answer at the limit lies half-way between right and wrong ones."""
    grpo = GrpoConfig(**PRESETS["dapo"].values)
    right, wrong = 1.0, 0.0
    at_the_limit = right + grpo.overlong_penalty * overlong_penalty(100, 100, grpo.overlong_buffer_share)
    assert at_the_limit == (right + wrong) / 2
    assert (1.0 + overlong_penalty(100, 100, grpo.overlong_buffer_share)) == (1.0 + -1.0) / 2, "DAPO's own"


def test_icepop_masks_tokens_outside_a_half_and_5():
    weights = [0.4, 0.6, 4.0, 6.0]
    rollout = [OLD - math.log(w) for w in weights]
    terms, logprobs = loss_of([1.0] * 4, [1.0] * 4, rollout=rollout, **PRESETS["icepop"].values)
    assert terms.importance.tolist() == pytest.approx([0.0, 0.6, 4.0, 0.0])
    assert gradient(terms, logprobs) == pytest.approx([0.0, -0.6 / 4, -1.0, 0.0])


def test_lite_ppo_divides_by_the_deviation_of_the_batchs_rewards():
    grpo = GrpoConfig(**PRESETS["lite_ppo"].values, advantage_epsilon=1e-12)
    first, second = step_advantages([(1.0, 0.0), (1.0, 1.0)], [(5, 1), (2, 2)], grpo)
    # Rewards 1, 0, 1, 1: mean 3/4, sample variance (3 / 16 + 9 / 16) / 3 = 1/4.
    assert first.advantages_G == pytest.approx((0.5 / 0.5, -0.5 / 0.5))
    assert second.advantages_G == (0.0, 0.0)


def test_reinforce_pp_baseline_whitens_what_is_relative_to_the_group():
    grpo = GrpoConfig(**PRESETS["reinforce_pp_baseline"].values, advantage_epsilon=1e-12)
    first, second = step_advantages([(1.0, 0.0), (1.0, 1.0)], [(3, 1), (2, 2)], grpo)
    # Tokens: 3 of 0.5, 1 of -0.5, 4 of 0: mean 1/8, variance (3 * 9 + 25 + 4) / 64 / 8 = 7/64.
    mean, std = 1 / 8, math.sqrt(7) / 8
    assert first.advantages_G == pytest.approx(((0.5 - mean) / std, (-0.5 - mean) / std))
    assert second.advantages_G == pytest.approx((-mean / std,) * 2)


def test_gdpo_scales_each_reward_by_itself():
    grpo = GrpoConfig(**PRESETS["gdpo"].values, advantage_epsilon=1e-12)
    accuracy, form = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 10.0, 10.0)
    sums = [a + 0.5 * f for a, f in zip(accuracy, form, strict=True)]
    [found] = step_advantages([sums], [(1,) * 4], grpo, parts=[[RewardPart(1.0, accuracy), RewardPart(0.5, form)]])
    # accuracy: mean 1/4, std 1/2. form: mean 5, std 10 / sqrt 3, so +- sqrt 3 / 2, whatever its scale is.
    half = math.sqrt(3) / 2 * 0.5
    raw = [1.5 - half, -0.5 - half, -0.5 + half, -0.5 + half]
    std = math.sqrt(sum(x * x for x in raw) / 3)
    assert found.advantages_G == pytest.approx([x / std for x in raw])


def test_gspo_takes_an_engines_mismatch_for_no_move_of_the_policy():
    """Learner's log-probs that differ from the engine's by 0.02 nats in the mean, and a policy that is unchanged."""
    rng = np.random.default_rng(0)
    index = np.arange(64).repeat(50).tolist()
    advantages = rng.choice([-1.0, 1.0], 64).repeat(50).tolist()
    values = PRESETS["gspo"].values
    rollout = (OLD + rng.normal(0, 0.02 * math.sqrt(math.pi / 2), len(index))).tolist()
    # With weights the ratio is to the learner's own log-probs (`loss_of` has them as the old ones)...
    terms, logprobs = loss_of([1.0] * len(index), advantages, 64, index, rollout, **values)
    assert (int(terms.clipped_low), int(terms.clipped_high)) == (0, 0)
    assert all(gradient(terms, logprobs))
    of_responses = np.exp((OLD - np.array(rollout)).reshape(64, 50).sum(1)).clip(max=2.0)
    assert terms.importance.tolist() == pytest.approx(of_responses.tolist()), "the weight of a whole response"
    # ...and without to the engine's.
    ratios = np.exp(OLD - np.array(rollout)).tolist()
    terms, _ = loss_of(ratios, advantages, 64, index, **values | {"importance_correction": "none"})
    assert int(terms.clipped_low) + int(terms.clipped_high) > 0.3 * len(index)
