"""The loss of the GRPO family: by hand, against a separate float64 implementation, and by properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from ssr1_rl.algorithm.importance import importance_weights
from ssr1_rl.algorithm.kl import LARGEST_LOG_RATIO, kl_estimate
from ssr1_rl.algorithm.loss import grpo_loss, loss_denominator
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from tests.unit.losses import OLD, double, gradient, loss_of


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # d(-ratio A) / d logprob = -ratio A
        (1.0, -2.0, 2.0, 2.0),
        (1.2, 2.0, -2.4, -2.4),  # inside the upper bound of 1.28
        (1.5, 2.0, -2.56, 0.0),  # clipped: 1.28 * 2
        (1.5, -2.0, 3.0, 3.0),  # not clipped: the update must be able to take it back
        (0.5, 2.0, -1.0, -1.0),  # not clipped either
        (0.5, -2.0, 1.6, 0.0),  # clipped: 0.8 * 2
        (0.9, -2.0, 1.8, 1.8),
        (3.0, 0.0, 0.0, 0.0),
    ],
)
def test_one_token_by_hand(ratio, advantage, loss, slope):
    terms, logprobs = loss_of([ratio], [advantage])
    assert terms.loss.item() == pytest.approx(loss, abs=1e-12)
    assert gradient(terms, logprobs) == pytest.approx([slope], abs=1e-12)
    assert terms.ratio_T.tolist() == pytest.approx([ratio])


def test_tokens_are_summed_and_divided_once_by_the_global_denominator():
    terms, _ = loss_of([1.0, 1.5, 0.5], [2.0, 2.0, -2.0], 10)
    assert terms.loss.item() == pytest.approx((-2.0 - 2.56 + 1.6) / 10)


def test_dual_clip_by_hand():
    terms, logprobs = loss_of([2.9, 5.0, 5.0, 0.5], [-2.0, -2.0, 2.0, -2.0], dual_clip=3.0)
    assert terms.loss.item() == pytest.approx(5.8 + 6.0 - 2.56 + 1.6)
    assert gradient(terms, logprobs) == pytest.approx([5.8, 0.0, 0.0, 0.0])


def test_sequence_ratio_by_hand():
    # Mean log-ratios: log 1.21 / 2 = log 1.1, and log 0.64 / 2 = log 0.8 (of another response, clipped at 0.9).
    ratios, advantages = [1.21, 1.0, 0.64, 1.0], [2.0, 2.0, -1.0, -1.0]
    terms, logprobs = loss_of(
        ratios, advantages, 2, [0, 0, 1, 1], ratio="sequence", denominator="sequence", clip_low=0.1, clip_high=0.2
    )
    assert terms.ratio_T.tolist() == pytest.approx([1.1, 1.1, 0.8, 0.8])
    assert terms.loss.item() == pytest.approx((-2.2 + 0.9) / 2)
    # GSPO: d s_i / d logprob = s_i / |o_i|, and 1/2 of the responses.
    assert gradient(terms, logprobs) == pytest.approx([-2.2 / 4, -2.2 / 4, 0.0, 0.0])
    assert (int(terms.clipped_low), int(terms.clipped_high)) == (2, 0)


def test_cispo_by_hand():
    terms, logprobs = loss_of([0.5, 1.0, 3.0], [1.0, -1.0, 2.0], 2, ratio="cispo", clip_low=1.0, clip_high=1.0)
    logprob = [OLD + math.log(0.5), OLD, OLD + math.log(3.0)]
    assert terms.loss.item() == pytest.approx(-(0.5 * logprob[0] - logprob[1] + 2.0 * 2.0 * logprob[2]) / 2)
    assert gradient(terms, logprobs) == pytest.approx([-0.25, 0.5, -2.0]), "the clipped token keeps its gradient"
    assert (int(terms.clipped_low), int(terms.clipped_high)) == (0, 1)


def test_denominators_by_hand():
    settings = [
        GrpoConfig(denominator=name, denominator_tokens=50) for name in ("batch_tokens", "sequence", "constant")
    ]
    assert [loss_denominator(120, 4, s) for s in settings] == [120, 4, 200]
    assert [loss_denominator(0, 0, s) for s in settings] == [1, 1, 50]
    terms, _ = loss_of([1.0] * 4, [1.0, 1.0, 1.0, 2.0], 2, [0, 0, 0, 1], denominator="sequence")
    assert terms.loss.item() == pytest.approx(-(1.0 + 2.0) / 2)


def test_two_halves_give_the_loss_of_the_whole():
    ratios, advantages, index = [0.7, 1.1, 1.4, 0.9], [1.0, -1.0, 0.5, -2.0], [0, 1, 1, 1]
    for settings in ({}, {"ratio": "sequence", "denominator": "sequence"}):
        whole, _ = loss_of(ratios, advantages, 4, index, **settings)
        cut = [(ratios[part], advantages[part], 4) for part in (slice(0, 1), slice(1, 4))]
        assert sum(loss_of(*half, **settings)[0].loss.item() for half in cut) == pytest.approx(whole.loss.item())


def test_only_tokens_whose_gradient_was_clipped_are_counted():
    terms, _ = loss_of([1.5, 1.5, 0.5, 0.5, 0.5, 1.0, 1.5], [1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 0.0])
    assert (int(terms.clipped_high), int(terms.clipped_low)) == (1, 2)


def test_kl_estimators_by_hand():
    logprobs, reference = double([-1.0, -1.0, -2.0]), double([-1.0, -2.0, -1.0])
    expected = {"k1": [0.0, 1.0, -1.0], "k2": [0.0, 0.5, 0.5], "k3": [0.0, math.exp(-1), math.e - 2]}
    for name, values in expected.items():
        assert kl_estimate(logprobs, reference, name).tolist() == pytest.approx(values)


def test_the_estimators_agree_in_the_mean():
    policy, reference = double([0.2, 0.5, 0.3]), double([0.3, 0.4, 0.3])
    exact = float((policy * (policy / reference).log()).sum())
    for name in ("k1", "k3"):
        assert float((policy * kl_estimate(policy.log(), reference.log(), name)).sum()) == pytest.approx(exact)
    assert float((policy * kl_estimate(policy.log(), reference.log(), "k2")).sum()) == pytest.approx(exact, rel=0.1)


def test_kl_term():
    terms, logprobs = loss_of([1.0, 1.0], [0.0, 0.0], 4, ref=[-2.5, -2.5], kl=0.5)
    assert terms.kl.item() == pytest.approx(2 * math.exp(-1))  # log-probs -1.5: exp(-1) + 1 - 1 each, undivided
    assert terms.loss.item() == pytest.approx(0.5 * 2 * math.exp(-1) / 4)
    assert gradient(terms, logprobs) == pytest.approx([0.5 * (1 - math.exp(-1)) / 4] * 2)
    assert not terms.kl.requires_grad


def test_a_kl_term_in_the_reward_is_none_in_the_loss():
    terms, logprobs = loss_of([1.0], [0.0], kl=0.5, kl_placement="reward")
    assert (terms.loss.item(), terms.kl.item()) == (0.0, 0.0)
    assert gradient(terms, logprobs) == [0.0]


def test_a_kl_term_without_reference_is_refused():
    with pytest.raises(AssertionError, match="reference"):
        loss_of([1.0], [1.0], kl=0.1)


def test_entropy_bonus_by_hand():
    entropy = double([0.5, 2.0]).requires_grad_()
    terms, _ = loss_of([1.0, 1.0], [1.0, -1.0], 4, entropy=entropy, entropy_bonus=0.1)
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(-0.25 / 4)
    assert entropy.grad.tolist() == pytest.approx([-0.1 / 4] * 2)


@pytest.mark.parametrize(
    ("level", "correction", "weights", "distinct"),
    [
        # old / rollout of the tokens: 1, 3, 1/4, 1/2 (the last two of one response); cap 2
        ("token", "truncate", [1.0, 2.0, 0.25, 0.5], 4),
        ("token", "mask", [1.0, 0.0, 0.0, 0.5], 4),
        ("sequence", "truncate", [1.0, 2.0, 0.125, 0.125], 3),
        ("sequence", "mask", [1.0, 0.0, 0.0, 0.0], 3),
    ],
)
def test_importance_weights_by_hand(level, correction, weights, distinct):
    rollout = [OLD, OLD - math.log(3), OLD + math.log(4), OLD + math.log(2)]
    settings = {"importance_correction": correction, "importance_level": level, "importance_cap": 2.0}
    index = [0, 1, 2, 2]
    old = torch.full((4,), OLD, dtype=torch.float64)
    tokens = LossTokens(old, old, double(rollout), old, old, torch.tensor(index), 3)
    found, single = importance_weights(tokens, GrpoConfig(**settings))
    assert found.tolist() == pytest.approx(weights)
    assert len(single) == distinct

    advantages = [1.0, -2.0, 0.5, 3.0]
    terms, logprobs = loss_of([1.1] * 4, advantages, 1, index, rollout, **settings)
    assert terms.importance.tolist() == pytest.approx(single.tolist())
    expected = [-w * 1.1 * a for w, a in zip(weights, advantages, strict=True)]
    assert terms.loss.item() == pytest.approx(sum(expected))
    assert gradient(terms, logprobs) == pytest.approx(expected)


def by_the_papers(new, old, rollout, ref, entropy, advantages, index, denominator, beta, s):
    """The whole family in plain floats, response by response, with the branches written out."""
    total = 0.0
    for response in sorted(set(index)):
        at = [t for t, i in enumerate(index) if i == response]
        mean_log_ratio = sum(new[t] - old[t] for t in at) / len(at)
        weight_of_response = math.exp(sum(old[t] - rollout[t] for t in at))
        geometric_mean = math.exp(sum(old[t] - rollout[t] for t in at) / len(at))
        moved = sum(rollout[t] - new[t] for t in at) / len(at)
        low, high = 1 - s.clip_low, 1 + s.clip_high
        product = 1.0  # GMPO: of the ratios, clipped by the sign of the advantage
        for t in at:
            ratio = math.exp(new[t] - old[t])
            product *= min(ratio, high) if advantages[t] > 0 else max(ratio, low)
        subtotal = 0.0
        for t in at:
            own, a = math.exp(new[t] - old[t]), advantages[t]
            ratio = math.exp(mean_log_ratio) if s.ratio == "sequence" else own
            if s.ratio == "cispo":
                gain = min(max(ratio, low), high) * a * new[t]
            elif s.clip == "soft":
                tau = s.soft_clip_positive if a > 0 else s.soft_clip_negative
                gain = 4 / tau / (1 + math.exp(-tau * (ratio - 1))) * a
            else:
                gain = min(ratio, high) * a if a >= 0 else max(ratio, low) * a
                if s.ratio == "geometric_mean":
                    gain = product ** (1 / len(at)) * a
                if s.dual_clip and a < 0 and gain < s.dual_clip * a:
                    gain = s.dual_clip * a
            if s.off_policy_mask and a < 0 and moved > s.off_policy_mask:
                gain = 0.0
            loss = -gain
            if s.kl_placement == "loss":
                d = new[t] - ref[t]
                kl = {"k1": d, "k2": d * d / 2, "k3": math.exp(-d) - 1 + d}[s.kl_estimator]
                loss += beta * kl * (own if s.kl_importance_ratio else 1.0)
            w = weight_of_response if s.importance_level == "sequence" else math.exp(old[t] - rollout[t])
            if s.importance_correction == "truncate":
                loss *= min(max(w, s.importance_floor), s.importance_cap)
            elif s.importance_correction == "mask":
                loss *= w if (s.importance_floor or 1 / s.importance_cap) <= w <= s.importance_cap else 0.0
            if s.rejection_cap:
                loss *= (s.rejection_floor or 1 / s.rejection_cap) <= geometric_mean <= s.rejection_cap
            subtotal += loss - s.entropy_bonus * entropy[t]
        total += subtotal / len(at) if s.denominator == "sequence" else subtotal
    return total / denominator


COMBINATIONS = [
    {},
    {"kl_estimator": "k1", "denominator": "sequence"},
    {"kl_estimator": "k2", "dual_clip": 1.5},
    {"ratio": "sequence", "clip_low": 0.05, "clip_high": 0.1, "denominator": "sequence", "entropy_bonus": 0.3},
    {"ratio": "sequence", "importance_correction": "mask", "importance_level": "sequence", "importance_cap": 30.0},
    {"ratio": "cispo", "clip_low": 1.0, "clip_high": 1.0, "importance_correction": "truncate"},
    {"ratio": "cispo", "kl_placement": "reward", "denominator": "sequence"},
    {"importance_correction": "truncate", "importance_level": "sequence", "entropy_bonus": 0.1, "dual_clip": 2.0},
    {"importance_correction": "mask", "importance_cap": 3.0, "denominator": "constant", "denominator_tokens": 9},
    {"importance_correction": "mask", "importance_cap": 1.2, "importance_floor": 0.7, "kl_importance_ratio": True},
    {"importance_correction": "truncate", "importance_cap": 1.1, "importance_floor": 0.9, "entropy_bonus": 0.2},
    {"rejection_cap": 1.05, "kl_importance_ratio": True, "kl_estimator": "k1", "entropy_bonus": 0.1},
    {"rejection_cap": 1.2, "rejection_floor": 0.97, "importance_correction": "truncate", "ratio": "sequence"},
    {"clip": "soft", "denominator": "sequence", "off_policy_mask": 0.02},
    {"clip": "soft", "ratio": "sequence", "soft_clip_positive": 2.0, "soft_clip_negative": 3.0},
    {"ratio": "geometric_mean", "clip_low": 0.33, "clip_high": 0.49, "denominator": "sequence", "dual_clip": 1.6},
    {"ratio": "geometric_mean", "rejection_cap": 1.05, "off_policy_mask": 0.01, "importance_correction": "mask"},
    {"ratio": "cispo", "clip_low": 1.0, "clip_high": 1.0, "off_policy_mask": 0.05, "rejection_cap": 1.5},
]


@pytest.mark.parametrize(
    "settings", COMBINATIONS, ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()) or "default"
)
@pytest.mark.parametrize("seed", range(2))
def test_combinations_against_an_implementation_of_its_own(settings, seed):
    rng = np.random.default_rng(seed)
    old = -rng.uniform(0.01, 4, 64)
    new, rollout, ref = (old + rng.normal(0, scale, 64) for scale in (0.4, 0.3, 0.5))
    entropy, advantages = rng.uniform(0, 3, 64), rng.standard_normal(64)
    index = np.repeat(np.arange(6), [1, 20, 7, 30, 1, 5])
    s = GrpoConfig(**settings)
    expected = by_the_papers(new, old, rollout, ref, entropy, advantages, index.tolist(), 100, 0.04, s)
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (new, old, rollout, advantages, entropy)]
    tokens = LossTokens(*tensors, torch.tensor(index), 6, torch.tensor(ref, dtype=torch.float32))
    assert grpo_loss(tokens, 100, s, 0.04).loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", ["token", "sequence", "cispo"])
@pytest.mark.parametrize(("logprob", "old"), [(-1.0, -100.0), (-100.0, -1.0)])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_beyond_float32_leaves_numbers(kind, logprob, old, advantage):
    logprobs = torch.tensor([logprob, -1.0], requires_grad=True)
    terms = of_float32(logprobs, torch.tensor([old, -1.0]), advantage, kind)
    terms.loss.backward()
    assert terms.loss.isfinite()
    assert logprobs.grad.isfinite().all()
    assert logprobs.grad[1] == -advantage, "the other token's gradient is its own"
    assert terms.ratio_T[0] == pytest.approx(math.exp(math.copysign(LARGEST_LOG_RATIO, logprob - old)), rel=1e-5)


@pytest.mark.parametrize("kind", ["token", "sequence", "cispo"])
def test_bounding_the_ratio_hides_no_nan(kind):
    nan = torch.tensor([math.nan, -1.0], requires_grad=True)
    assert of_float32(nan, torch.tensor([-1.0, -1.0]), 1.0, kind).loss.isnan()
    fine = torch.tensor([-1.0, -1.0], requires_grad=True)
    assert of_float32(fine, torch.tensor([math.nan, -1.0]), 1.0, kind).loss.isnan()


def of_float32(logprobs, old, advantage, kind):
    """The loss of two responses with one token each."""
    tokens = LossTokens(
        logprobs, old, old, torch.full((2,), advantage), torch.zeros(2), torch.arange(2), num_responses=2
    )
    return grpo_loss(tokens, 1, GrpoConfig(ratio=kind), 0.0)


def test_shapes_are_checked_here():
    """Only under pytest; a run has no such cost."""
    with pytest.raises(TypeCheckError, match="ref_logprobs_T"):
        kl_estimate(torch.zeros(3), torch.zeros(2), "k1")


RATIOS = st.floats(0.01, 100)
ADVANTAGES = st.floats(-10, 10).filter(lambda a: abs(a) > 1e-3)


@given(RATIOS, ADVANTAGES, st.sampled_from(["token", "sequence"]), st.sampled_from([0.0, 3.0]))
def test_clipping_never_rewards_moving_further(ratio, advantage, kind, dual_clip):
    # On a kink itself either slope is right.
    assume(all(abs(ratio - kink) > 1e-9 for kink in (0.8, 1.28, dual_clip)))
    terms, logprobs = loss_of([ratio], [advantage], ratio=kind, dual_clip=dual_clip)
    [slope] = gradient(terms, logprobs)
    beyond = ratio > 1.28 if advantage > 0 else ratio < 0.8
    assert slope * advantage <= 0, "the loss never falls against the advantage"
    if beyond:
        assert slope == 0.0
    elif not (dual_clip and advantage < 0 and ratio > dual_clip):
        assert slope == pytest.approx(-ratio * advantage)


@given(
    st.lists(st.tuples(RATIOS, ADVANTAGES, st.floats(0.01, 100)), min_size=2, max_size=6),
    st.sampled_from(["token", "sequence", "cispo"]),
)
def test_a_masked_token_has_no_gradient(drawn, kind):
    ratios, advantages, mismatch = zip(*drawn, strict=True)
    rollout = [OLD - math.log(m) for m in mismatch]
    terms, logprobs = loss_of(
        ratios, advantages, rollout=rollout, ref=[OLD] * len(ratios), kl=0.1, ratio=kind, importance_correction="mask"
    )
    for slope, weight in zip(gradient(terms, logprobs), terms.importance.tolist(), strict=True):
        assert slope == 0.0 or weight != 0.0


@given(st.lists(st.tuples(RATIOS, ADVANTAGES), min_size=1, max_size=6), st.floats(0.1, 10))
def test_the_loss_grows_with_the_advantages(drawn, factor):
    ratios, advantages = zip(*drawn, strict=True)
    terms, _ = loss_of(ratios, advantages)
    larger, _ = loss_of(ratios, [a * factor for a in advantages])
    assert larger.loss.item() == pytest.approx(factor * terms.loss.item(), rel=1e-9, abs=1e-9)
