"""Which log-probs a step computes and which it does not: the passes of the models are counted."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssr1_rl.config.presets import PRESETS
from ssr1_rl.types import TrainGroup
from tests.integration.ranks import groups_of, make_learner, run_ranks

WEIGHTS = {"importance_correction": "truncate"}
PASSES = [
    # settings, forward passes of the policy and of the reference
    ({}, (1, 0)),
    (WEIGHTS, (1, 0)),
    ({"num_epochs": 2}, (2, 0)),
    ({"num_epochs": 2, **WEIGHTS}, (1 + 2, 0)),
    ({"num_epochs": 3, **WEIGHTS}, (1 + 3, 0)),
    ({"num_minibatches": 2, **WEIGHTS}, (2 + 2, 0)),
    ({"kl_coefficient": 0.1}, (1, 1)),
    ({"kl_coefficient": 0.1, "num_epochs": 2, **WEIGHTS}, (1 + 2, 1)),
    # The KL term is part of the advantages.
    ({"kl_coefficient": 0.1, "kl_placement": "reward"}, (1, 0)),
]


def count_passes(learner: Any, minibatches: list[list[TrainGroup]]) -> tuple[int, int]:
    """Forward passes of the policy and of any other one in a step."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    from ssr1_rl.trainer.model.policy import Policy

    ran: list[Any] = []
    hook = register_module_forward_pre_hook(lambda module, _: ran.append(module) if type(module) is Policy else None)
    learner.update(minibatches)
    hook.remove()
    num_own = sum(module is learner.policy for module in ran)
    return num_own, len(ran) - num_own


def passes_of_steps(rank: int, world_size: int, port: int, model: str) -> list[tuple[int, int]]:
    found = []
    for grpo, _ in PASSES:
        learner = make_learner(rank, world_size, port, model, of_model={"train_audio_tower": True}, grpo=grpo)
        groups, num_minibatches = groups_of(learner), learner._grpo.num_minibatches
        found.append(count_passes(learner, [groups[index::num_minibatches] for index in range(num_minibatches)]))
    return found


def test_a_step_runs_no_pass_that_it_does_not_need(random_audio_model: Path) -> None:
    for (grpo, expected), found in zip(PASSES, run_ranks(passes_of_steps, 1, str(random_audio_model)), strict=True):
        assert found == expected, grpo


def as_bfloat16_engines_report_them(groups: list[TrainGroup], learner: Any) -> list[TrainGroup]:
    """The groups with the learner's own log-probs, changed by 0.015 nats in the mean."""
    rng = np.random.default_rng(0)
    # k1 of the engine's policy to the start, which still is the policy.
    return [
        replace(
            group,
            rollout_logprobs=tuple(
                tuple((np.array(rollout) - kl_T + rng.normal(0, 0.019, len(kl_T))).tolist())
                for rollout, kl_T in zip(group.rollout_logprobs, kl_G, strict=True)
            ),
        )
        for group, kl_G in zip(groups, learner.reference_kl(groups), strict=True)
    ]


def gspo_updates(rank: int, world_size: int, port: int, model: str) -> list[dict[str, float]]:
    """Metrics of a first update under the preset, and without its importance weights."""
    start = make_learner(rank, world_size, port, model, grpo={"kl_coefficient": 0.1, "kl_estimator": "k1"})
    groups = as_bfloat16_engines_report_them(groups_of(start), start)
    found = []
    for correction in ({}, {"importance_correction": "none"}):
        learner = make_learner(rank, world_size, port, model, grpo=PRESETS["gspo"].values | correction)
        found.append(learner.update([groups]))
    return found


def test_gspos_first_update_clips_nothing_for_the_engines_noise(random_audio_model: Path) -> None:
    preset, without = run_ranks(gspo_updates, 1, str(random_audio_model))
    assert preset["logprob_abs_diff_mean"] == without["logprob_abs_diff_mean"] == pytest.approx(0.015, abs=0.005)
    assert preset["clipped_low_share"] == preset["clipped_high_share"] == 0.0
    assert preset["ratio_max"] == pytest.approx(1.0, abs=1e-6)
    assert preset["effective_sample_size"] == pytest.approx(1.0, abs=1e-2)
    assert without["clipped_low_share"] + without["clipped_high_share"] > 0.2
