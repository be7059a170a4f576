"""A log-prob of an engine that is no log-prob: its token leaves the loss, everything else stays as it is."""

import math

import pytest
import torch

from ssr1_rl.algorithm.loss import grpo_loss
from ssr1_rl.algorithm.overlong import carries_loss
from ssr1_rl.algorithm.step_batch import num_loss_tokens, num_unusable_tokens, train_group
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.algorithm.usable import usable_tokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.types import Completion, GroupId, PreparedQuestion, Question, RolloutGroup, ScoredGroup
from tests.unit.losses import double

BAD = [math.nan, math.inf, -math.inf, 0.5]


@pytest.mark.parametrize("bad", BAD)
def test_nan_infinities_and_positive_values_are_not_usable(bad):
    assert usable_tokens((-1.0, bad, 0.0, -800.0)) == (True, False, True, True)
    assert usable_tokens((bad,)) == (False,)


def test_usual_log_probs_are_usable_and_rounding_above_0_is_too():
    assert usable_tokens((-1.0, -0.0, 1e-6)) == (True, True, True)
    assert usable_tokens(()) == ()


def test_infinities_of_both_signs_do_not_hide_each_other():
    assert usable_tokens((math.inf, -math.inf, -1.0)) == (False, False, True)


SETTINGS = [
    {},
    {"denominator": "sequence"},
    {"ratio": "sequence", "denominator": "sequence"},
    {"ratio": "geometric_mean", "denominator": "sequence"},
    {"ratio": "cispo"},
    {"clip": "soft"},
    {"kl_coefficient": 0.1, "kl_importance_ratio": True},
    {"importance_correction": "truncate", "entropy_bonus": 0.1},
    {"importance_correction": "mask", "importance_level": "sequence", "importance_cap": 9.0},
    {"rejection_cap": 1.3, "off_policy_mask": 0.05},
]


def tokens_of(values, index, in_loss=None):
    logprobs, *others = (double(row) for row in values)
    return LossTokens(
        logprobs.requires_grad_(),
        others[0],
        others[1],
        others[2],
        others[3],
        torch.tensor(index),
        2,
        others[4],
        None if in_loss is None else torch.tensor(in_loss),
    )


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_token_out_of_the_loss_is_as_if_it_were_not_there(settings):
    rows = [
        [-1.0, -2.0, -0.5, -1.5, -2.5],  # new
        [-1.1, -1.9, -0.7, -1.4, -2.2],  # old
        [-1.2, 0.0, -0.6, -1.5, -2.3],  # the engine's: 0 stands for what is not usable
        [1.0, 1.0, 1.0, -1.0, -1.0],  # advantages
        [0.5, 0.4, 0.3, 0.2, 0.1],  # entropies
        [-1.3, -1.0, -0.9, -1.1, -2.0],  # reference
    ]
    grpo = GrpoConfig(**settings)
    with_it = tokens_of(rows, [0, 0, 0, 1, 1], [True, False, True, True, True])
    without = tokens_of([[row[i] for i in (0, 2, 3, 4)] for row in rows], [0, 0, 1, 1])
    found, expected = (grpo_loss(tokens, 7, grpo, grpo.kl_coefficient) for tokens in (with_it, without))
    for terms in (found, expected):
        terms.loss.backward()
    assert found.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
    slopes = with_it.logprobs_T.grad.tolist()
    assert slopes.pop(1) == 0.0
    assert slopes == pytest.approx(without.logprobs_T.grad.tolist(), rel=1e-12)
    for name in ("kl", "clipped_low", "clipped_high", "rejected", "off_policy"):
        assert getattr(found, name).item() == pytest.approx(getattr(expected, name).item()), name


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_response_without_any_token_in_the_loss_divides_nothing_by_0(settings):
    rows = [[-1.0, -2.0]] * 3 + [[1.0, -1.0], [0.1, 0.2], [-1.0, -1.0]]
    grpo = GrpoConfig(**settings)
    tokens = tokens_of(rows, [0, 1], [False, True])
    terms = grpo_loss(tokens, 1, grpo, grpo.kl_coefficient)
    terms.loss.backward()
    assert terms.loss.isfinite()
    assert tokens.logprobs_T.grad.isfinite().all()
    assert tokens.logprobs_T.grad[0] == 0


def scored(*logprobs):
    completions = tuple(Completion((5,) * len(of), of, "x", "stop") for of in logprobs)
    question = Question("q", "?", "yes")
    group = RolloutGroup(GroupId(0, "q"), question, completions)
    return ScoredGroup(group, tuple(float(i) for i in range(len(logprobs))), {}), PreparedQuestion(question, (1,))


@pytest.mark.parametrize("bad", BAD)
def test_they_are_counted_and_leave_the_tokens_in_the_loss(bad):
    group, prepared = scored((-1.0, bad, -1.0), (bad, bad), (-1.0,))
    trained = train_group(group, prepared, GrpoConfig())
    assert num_loss_tokens(trained) == [2, 0, 1]
    assert trained.loss_mask_G == (True, False, True), "a response without a usable token is not in the loss"
    assert num_unusable_tokens([group]) == 3


def test_an_empty_response_is_not_taken_for_an_unusable_one():
    assert carries_loss(Completion((), (), "", "stop"), GrpoConfig())
