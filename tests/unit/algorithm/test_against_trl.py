"""The same tensors through TRL's own code, in float64, gradients included (`tests/golden/trl_losses.py` wrote them)."""

import json
from pathlib import Path

import pytest
import torch

from ssr1_rl.algorithm.advantage import RewardPart, step_advantages
from ssr1_rl.algorithm.loss import grpo_loss, loss_denominator
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig

TRL = json.loads((Path(__file__).parents[2] / "golden" / "trl_losses.json").read_text())
LENGTHS = TRL["lengths"]

# Our settings for TRL's.
OURS = {
    "grpo": {"denominator": "sequence"},
    "dapo, epsilon_high": {"clip_high": 0.28},
    "dr_grpo": {"denominator": "constant", "denominator_tokens": 11},
    "delta": {"dual_clip": 1.4},
    "cispo": {"ratio": "cispo", "clip_low": 1.0, "clip_high": 0.3},
    "gspo": {"ratio": "sequence", "denominator": "sequence", "clip_low": 0.02, "clip_high": 0.03},
    "sapo": {"clip": "soft", "denominator": "sequence"},
    "sapo, temperatures": {
        "clip": "soft",
        "denominator": "sequence",
        "soft_clip_positive": 2.0,
        "soft_clip_negative": 5.0,
    },
    "sapo, sequence": {"clip": "soft", "ratio": "sequence", "denominator": "sequence"},
    "k3": {"denominator": "sequence", "kl_coefficient": 0.3},
    "unbiased k3": {"kl_coefficient": 0.3, "kl_importance_ratio": True},
    "opsm": {"off_policy_mask": 0.02},
    "opsm, k3": {"off_policy_mask": 0.02, "kl_coefficient": 0.3, "denominator": "sequence"},
    "truncated weights": {"importance_correction": "truncate", "importance_cap": 1.2},
    "truncated weights, floor": {
        "importance_correction": "truncate",
        "importance_cap": 1.2,
        "importance_floor": 0.9,
    },
    "icepop": {
        "importance_correction": "mask",
        "importance_cap": 1.3,
        "importance_floor": 0.8,
        "denominator": "sequence",
    },
    "masked sequences": {
        "importance_correction": "mask",
        "importance_level": "sequence",
        "importance_cap": 1.5,
        "importance_floor": 0.6,
        "denominator": "sequence",
    },
    "gspo, truncated sequences": {
        "ratio": "sequence",
        "denominator": "sequence",
        "importance_correction": "truncate",
        "importance_level": "sequence",
        "importance_cap": 1.1,
    },
    "sapo, icepop, opsm": {
        "clip": "soft",
        "denominator": "sequence",
        "importance_correction": "mask",
        "importance_cap": 1.3,
        "importance_floor": 0.8,
        "off_policy_mask": 0.02,
    },
}


def flat(name):
    return torch.tensor([value for row in TRL[name] for value in row], dtype=torch.float64)


def ours(settings):
    grpo = GrpoConfig(**settings)
    logprobs = flat("new").requires_grad_()
    tokens = LossTokens(
        logprobs,
        flat("old"),
        flat("rollout"),
        torch.tensor(TRL["advantages"], dtype=torch.float64).repeat_interleave(torch.tensor(LENGTHS)),
        flat("entropy"),
        torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)),
        len(LENGTHS),
        flat("ref"),
    )
    terms = grpo_loss(tokens, loss_denominator(sum(LENGTHS), len(LENGTHS), grpo), grpo, grpo.kl_coefficient)
    terms.loss.backward()
    return terms, logprobs.grad


def test_every_loss_of_trl_is_compared():
    assert OURS.keys() == TRL["losses"].keys()


@pytest.mark.parametrize("name", OURS)
def test_loss_and_gradient_are_trls(name):
    theirs = TRL["losses"][name]
    terms, gradient = ours(OURS[name])
    assert terms.loss.item() == pytest.approx(theirs["loss"], rel=1e-12)
    assert gradient.tolist() == pytest.approx([g for row in theirs["gradient"] for g in row], rel=1e-10, abs=1e-14)


def test_the_tensors_reach_what_is_compared():
    """Each of these would equal the plain loss if nothing were clipped, masked or dropped."""
    terms, _ = ours(OURS["opsm"])
    assert 0 < int(terms.off_policy) < sum(LENGTHS)
    for name in ("icepop", "masked sequences"):
        terms, _ = ours(OURS[name])
        assert 0 < int((terms.importance == 0).sum()) < len(terms.importance)
    for name in ("grpo", "gspo", "cispo"):
        terms, _ = ours(OURS[name])
        assert int(terms.clipped_low) + int(terms.clipped_high) > 0


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("group", {}),
        ("none", {"advantage_scale": "none"}),
        ("batch", {"advantage_scale": "batch_reward_std", "batch_statistics": "responses"}),
        ("gdpo", {"normalize_each_reward": True, "whiten_advantages": True, "batch_statistics": "responses"}),
    ],
)
def test_advantages_are_trls(name, settings):
    weights = TRL["reward_weights"]
    groups = [TRL["rewards"][:4], TRL["rewards"][4:]]
    sums = [[sum(w * r for w, r in zip(weights, row, strict=True)) for row in group] for group in groups]
    parts = [[RewardPart(w, [row[k] for row in group]) for k, w in enumerate(weights)] for group in groups]
    # Tokens differ in number: they must not count.
    found = step_advantages(sums, [(1, 2, 3, 4), (5, 6, 7, 8)], GrpoConfig(**settings), parts=parts)
    expected = TRL["advantages_of"][name]["advantages"]
    assert [a for group in found for a in group.advantages_G] == pytest.approx(expected, rel=1e-10, abs=1e-12)
