"""The clipped loss: by hand, against an implementation of its own in float64, and where its gradient vanishes."""

import math

import numpy as np
import pytest
import torch

from ssr1_rl.trainer.loss import grpo_loss, k3


def loss_of(ratios, advantages, num_loss_tokens=1, clip_low=0.2, clip_high=0.28, **more):
    """The loss at given ratios, and the log-probs that it was taken at."""
    old = torch.full((len(ratios),), -1.5, dtype=torch.float64)
    logprobs = (old + torch.tensor(ratios, dtype=torch.float64).log()).requires_grad_()
    return grpo_loss(
        logprobs, old, torch.tensor(advantages, dtype=torch.float64), num_loss_tokens, clip_low, clip_high, **more
    ), logprobs


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient"),
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
def test_one_token_by_hand(ratio, advantage, loss, gradient):
    terms, logprobs = loss_of([ratio], [advantage])
    terms.loss.backward()
    assert terms.loss.item() == pytest.approx(loss, abs=1e-12)
    assert logprobs.grad.item() == pytest.approx(gradient, abs=1e-12)


def test_tokens_are_summed_and_divided_once_by_the_global_denominator():
    terms, _ = loss_of([1.0, 1.5, 0.5], [2.0, 2.0, -2.0], num_loss_tokens=10)
    assert terms.loss.item() == pytest.approx((-2.0 - 2.56 + 1.6) / 10)


def test_two_halves_give_the_loss_of_the_whole():
    ratios, advantages = [0.7, 1.1, 1.4, 0.9], [1.0, -1.0, 0.5, -2.0]
    whole, _ = loss_of(ratios, advantages, 4)
    halves = [loss_of(ratios[part], advantages[part], 4)[0] for part in (slice(0, 1), slice(1, 4))]
    assert sum(half.loss.item() for half in halves) == pytest.approx(whole.loss.item())


def test_only_tokens_whose_gradient_was_clipped_are_counted():
    terms, _ = loss_of([1.5, 1.5, 0.5, 0.5, 0.5, 1.0, 1.5], [1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 0.0])
    assert (int(terms.clipped_high), int(terms.clipped_low)) == (1, 2)


def test_k3_by_hand():
    logprobs, reference = torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.0, -2.0, -1.0])
    assert k3(logprobs, reference).tolist() == pytest.approx([0.0, math.exp(-1), math.e - 2], rel=1e-6)


def test_kl_term():
    reference = torch.full((2,), -2.5, dtype=torch.float64)
    terms, logprobs = loss_of([1.0, 1.0], [0.0, 0.0], 4, ref_logprobs_T=reference, kl_coefficient=0.5)
    terms.loss.backward()
    assert terms.kl.item() == pytest.approx(2 * math.exp(-1))  # log-probs -1.5: exp(-1) + 1 - 1 each, undivided
    assert terms.loss.item() == pytest.approx(0.5 * 2 * math.exp(-1) / 4)
    assert logprobs.grad.tolist() == pytest.approx([0.5 * (1 - math.exp(-1)) / 4] * 2)
    assert not terms.kl.requires_grad


def test_a_kl_term_without_reference_is_refused():
    with pytest.raises(AssertionError, match="reference"):
        loss_of([1.0], [1.0], kl_coefficient=0.1)


def by_the_paper(logprobs, old, advantages, ref, denominator, low, high, beta):
    """DeepSeekMath eq. 3 with the branches written out."""
    total = 0.0
    for new, before, advantage, reference in zip(logprobs, old, advantages, ref, strict=True):
        ratio = math.exp(new - before)
        surrogate = min(ratio, 1 + high) * advantage if advantage >= 0 else max(ratio, 1 - low) * advantage
        kl = math.exp(reference - new) - (reference - new) - 1
        total += -surrogate + beta * kl
    return total / denominator


@pytest.mark.parametrize("seed", range(5))
def test_against_an_implementation_of_its_own(seed):
    rng = np.random.default_rng(seed)
    old, new, ref = (-rng.uniform(0.01, 4, 64) for _ in range(3))
    advantages = rng.standard_normal(64)
    expected = by_the_paper(new, old, advantages, ref, 100, 0.2, 0.28, 0.04)
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (new, old, advantages)]
    terms = grpo_loss(*tensors, 100, 0.2, 0.28, torch.tensor(ref, dtype=torch.float32), 0.04)
    assert terms.loss.item() == pytest.approx(expected, rel=1e-5)
