"""Log-ratios far beyond any that a sane run has: values and gradients are finite, and never of the wrong sign."""

import itertools
import math

import numpy as np
import pytest
import torch

from ssr1_rl.algorithm.adaptive_kl import KlCoefficient
from ssr1_rl.algorithm.advantage import step_advantages
from ssr1_rl.algorithm.kl import kl_estimate
from ssr1_rl.algorithm.loss import grpo_loss
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.trainer.ratio_histogram import count_ratios, ratio_quantile

EXTREMES = [-math.inf, -1000.0, -50.0, -20.0, -1.0, 0.0, 1.0, 20.0, 50.0, 1000.0, math.inf]
DTYPES = [torch.float32, torch.float64]


def kl_and_slope(difference, estimator, dtype):
    logprob = torch.zeros(1, dtype=dtype, requires_grad=True)
    kl = kl_estimate(logprob, torch.tensor([-difference], dtype=dtype), estimator)
    kl.sum().backward()
    return kl.item(), logprob.grad.item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("difference", EXTREMES)
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_kl_term_never_pushes_away_from_the_reference(estimator, difference, dtype):
    kl, slope = kl_and_slope(difference, estimator, dtype)
    assert math.isfinite(kl)
    assert kl >= 0
    assert math.isfinite(slope)
    assert slope * difference >= 0 or slope == 0.0, "a token that the reference likes less is pushed down, never up"


def test_k3_has_no_gradient_below_its_bound_and_a_gradient_of_1_far_above():
    assert kl_and_slope(-50.0, "k3", torch.float32) == (pytest.approx(math.exp(20) - 21, rel=1e-6), 0.0)
    kl, slope = kl_and_slope(50.0, "k3", torch.float32)
    assert (kl, slope) == (pytest.approx(49.0), pytest.approx(1.0))
    # Just inside the bound the gradient is the exact one: 1 - exp(-d).
    assert kl_and_slope(-19.9, "k3", torch.float64)[1] == pytest.approx(1 - math.exp(19.9))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("difference", EXTREMES)
def test_k1_is_finite(difference, dtype):
    kl, slope = kl_and_slope(difference, "k1", dtype)
    assert math.isfinite(kl)
    assert kl * difference >= 0 or difference == 0
    assert slope in (0.0, 1.0)


KINDS = {
    "token": {},
    "sequence": {"ratio": "sequence"},
    "geometric_mean": {"ratio": "geometric_mean"},
    "cispo": {"ratio": "cispo"},
    "soft": {"clip": "soft"},
    "soft sequence": {"clip": "soft", "ratio": "sequence"},
    "no bound below": {"ratio": "geometric_mean", "clip_low": 1.0, "dual_clip": 3.0},
    "unbiased k3": {"kl_coefficient": 0.1, "kl_importance_ratio": True},
    "unbiased k1": {"kl_coefficient": 0.1, "kl_importance_ratio": True, "kl_estimator": "k1"},
    "truncate": {"importance_correction": "truncate", "importance_floor": 0.1},
    "mask": {"importance_correction": "mask"},
    "sequence weights": {"importance_correction": "truncate", "importance_level": "sequence"},
    "rejection": {"rejection_cap": 1.5},
    "off-policy": {"off_policy_mask": 0.1},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("log_ratio", [x for x in EXTREMES if math.isfinite(x)])
def test_a_single_token_leaves_the_loss_finite_and_is_never_pushed_the_wrong_way(kind, log_ratio, advantage, dtype):
    grpo = GrpoConfig(**KINDS[kind])
    logprobs = torch.tensor([-1.0, -1.0], dtype=dtype, requires_grad=True)
    old = torch.tensor([-1.0 - log_ratio, -1.0], dtype=dtype)
    tokens = LossTokens(
        logprobs,
        old,
        # The engine is as far from the old policy as that is from the new one.
        old + (old - logprobs.detach()),
        torch.full((2,), advantage, dtype=dtype),
        torch.zeros(2, dtype=dtype),
        torch.tensor([0, 0]),
        1,
        torch.full((2,), -1.0, dtype=dtype),  # the reference agrees with the new policy: the KL term pushes nowhere
    )
    terms = grpo_loss(tokens, 1, grpo, grpo.kl_coefficient)
    terms.loss.backward()
    assert terms.loss.isfinite()
    assert logprobs.grad.isfinite().all()
    assert terms.ratio_T.isfinite().all()
    assert terms.importance.isfinite().all()
    if "kl_coefficient" not in KINDS[kind]:
        assert (logprobs.grad * advantage <= 0).all()


@pytest.mark.parametrize(("kind", "log_ratio", "reference"), itertools.product(("k1", "k3"), EXTREMES[1:-1], EXTREMES))
def test_the_unbiased_kl_is_finite_for_any_old_policy_and_reference(kind, log_ratio, reference):
    grpo = GrpoConfig(kl_coefficient=0.1, kl_importance_ratio=True, kl_estimator=kind)
    logprobs = torch.zeros(1, requires_grad=True)
    zero = torch.zeros(1)
    tokens = LossTokens(logprobs, zero - log_ratio, zero, zero, zero, torch.tensor([0]), 1, zero - reference)
    terms = grpo_loss(tokens, 1, grpo, 0.1)
    terms.loss.backward()
    assert terms.loss.isfinite()
    assert logprobs.grad.isfinite().all()


def test_the_unbiased_kls_gradient_is_that_of_the_kl_whoever_sampled_the_tokens():
    """Enumerated over a vocabulary of three: the mean over an old policy's samples is the exact gradient."""
    logits = torch.tensor([0.3, -0.2, 0.9], dtype=torch.float64, requires_grad=True)
    reference = torch.log_softmax(torch.tensor([1.0, 0.1, -0.5], dtype=torch.float64), 0)
    old = torch.log_softmax(torch.tensor([0.0, 0.4, 0.2], dtype=torch.float64), 0)
    log_p = torch.log_softmax(logits, 0)
    exact = torch.autograd.grad((log_p.exp() * (log_p - reference)).sum(), logits, retain_graph=True)[0]
    for estimator, unbiased in (("k3", True), ("k1", True), ("k3", False)):
        grpo = GrpoConfig(kl_coefficient=1.0, kl_importance_ratio=unbiased, kl_estimator=estimator)
        expected = torch.zeros(3, dtype=torch.float64)
        for token in range(3):
            zero = torch.zeros(1, dtype=torch.float64)
            own = log_p[token : token + 1]
            tokens = LossTokens(
                own, old[token : token + 1], zero, zero, zero, torch.tensor([0]), 1, reference[token : token + 1]
            )
            loss = grpo_loss(tokens, 1, grpo, 1.0).loss
            expected += old[token].exp() * torch.autograd.grad(loss, logits, retain_graph=True)[0]
        assert torch.allclose(expected, exact, atol=1e-12) == unbiased


@pytest.mark.parametrize("name", ["k1", "k2", "k3"])
def test_kl_in_the_reward_stays_finite(name):
    sampled = torch.tensor([0.0, 0.0, -1000.0])
    kl = kl_estimate(sampled, torch.tensor([-1000.0, -math.inf, 0.0]), name).tolist()
    grpo = GrpoConfig(advantage_scale="batch_std", kl_placement="reward", kl_coefficient=0.1)
    [found] = step_advantages([(1.0, 0.0)], [(3, 1)], grpo, [[kl, [0.0]]], 0.1)
    assert all(map(math.isfinite, found.advantages_G))


@pytest.mark.parametrize("kl", [math.nan, math.inf, -math.inf])
def test_a_kl_that_is_no_number_does_not_adapt_the_coefficient(kl):
    adapted = KlCoefficient(GrpoConfig(kl_coefficient=0.5, kl_target=0.1))
    adapted.observe(kl)
    assert adapted.value == 0.5


def test_the_histogram_takes_any_ratio():
    counts = count_ratios(torch.tensor([0.0, math.exp(-20), 1.0, math.exp(20), math.inf]))
    assert int(counts.sum()) == 5
    assert np.isfinite([ratio_quantile(counts, share) for share in (0.01, 0.5, 0.99)]).all()
