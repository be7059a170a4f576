"""A frozen audio tower on real ranks: runs once per clip, equally often on every rank, with the same gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.ranks import groups_of, make_learner, num_tokens, relative_difference, run_ranks, whole_gradient


def train(rank: int, world_size: int, port: int, model: str, stage: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """The hit rate of each update, then a gradient for which rank 0 has all clips cached and the other ranks none."""
    from ssr1_rl.trainer.batches.balance import share_groups

    learner = make_learner(
        rank,
        world_size,
        port,
        model,
        grpo={"kl_coefficient": 0.05, "num_epochs": 2},
        zero_stage=stage,
        # A separate pass for nearly every clip, and several micro-batches.
        max_tokens_per_micro_batch=60,
        learning_rate=1e-12,
    )
    groups = groups_of(learner)
    if world_size == 1:
        share, known = groups, groups
    else:
        share = share_groups(groups, world_size, num_tokens)[rank]
        # Only clips of rank 0: it has all of them cached for the gradient, and the other ranks none.
        known = share_groups(groups, world_size, num_tokens)[0]
    rates = [learner.update([known])["audio_cache_hit_rate"] for _ in range(2)]
    runs: list[int] = []
    tower: Any = learner.policy.tower
    encode = tower.encode
    tower.encode = lambda mel, frames: runs.append(len(frames)) or encode(mel, frames)
    gradient = whole_gradient(learner, share)
    assert bool(runs) == (world_size > 1), "all ranks run the tower where one has to, and none where none has to"
    return rates, gradient


def test_ranks_keep_in_step_whatever_they_have_kept(tiny_audio_model: Path) -> None:
    rates, expected = run_ranks(train, 1, str(tiny_audio_model), 0)
    # The reference, then two epochs; the very first pass finds nothing in the cache.
    assert rates == pytest.approx([2 / 3, 1.0])
    assert not any(name.startswith("audio_tower.") for name in expected)
    for stage in (1, 3):
        rates, found = run_ranks(train, 2, str(tiny_audio_model), stage)
        assert rates == pytest.approx([2 / 3, 1.0])
        assert relative_difference(found, expected) <= 1e-5, f"ZeRO stage {stage}"
