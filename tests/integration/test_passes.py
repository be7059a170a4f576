"""All ranks run the same number of passes, also with unequal shares: real ranks over gloo, ZeRO-3."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.ranks import groups_of, make_learner, random_groups, run_ranks

BUDGET = 60
KL_IN_LOSS = {"kl_coefficient": 0.05, "num_epochs": 2, "importance_correction": "truncate"}


def learner_of(rank: int, world_size: int, port: int, model: str, stage: int) -> Any:
    return make_learner(
        rank,
        world_size,
        port,
        model,
        of_model={"train_audio_tower": True},
        grpo=KL_IN_LOSS,
        zero_stage=stage,
        max_tokens_per_micro_batch=BUDGET,
    )


def update(rank: int, world_size: int, port: int, model: str, shares: list[list[int]], stage: int) -> dict[str, float]:
    """Metrics of an update in which each rank has the groups that `shares` says; group 3 is masked from the loss."""
    learner = learner_of(rank, world_size, port, model, stage)
    groups = groups_of(learner)
    groups[3] = replace(groups[3], loss_mask_G=(False, False, False))
    return learner.update([[groups[index] for index in shares[rank]]])


def test_unequal_shares_give_the_update_of_one_rank(tiny_audio_model: Path) -> None:
    model = str(tiny_audio_model)
    whole = run_ranks(update, 1, model, [[0, 1, 2, 3]], 0)
    assert whole["trained_tokens"] > 0
    # A rank with one group against three; one whose only group is masked, so that all its passes are fillers.
    for shares in ([[0], [1, 2, 3]], [[0, 1, 2], [3]]):
        found = run_ranks(update, 2, model, shares, 3)
        assert found["trained_tokens"] == whole["trained_tokens"]
        for name in ("loss", "grad_norm", "entropy", "kl_to_reference", "effective_sample_size"):
            assert found[name] == pytest.approx(whole[name], rel=2e-3), (shares, name)


def count_passes(rank: int, world_size: int, port: int, model: str) -> list[list[Any]]:
    """For budgets that need many passes and one: weights and tokens of the passes of every rank."""
    import torch.distributed as dist

    from ssr1_rl.trainer.batches.balance import rows_to_train

    found = []
    learner = learner_of(rank, world_size, port, model, 1)
    groups = random_groups(
        6, range(10, learner.model.config.text_config.vocab_size), learner.model.config.audio_token_id
    )
    own = groups[:1] if rank else groups[1:]
    for budget in (BUDGET, 100_000):
        learner._passes._config.max_tokens_per_micro_batch = budget
        rows = learner._passes.rows(own, 0)
        batches = learner._passes.micro_batches(rows_to_train(rows, keep_all=True), rows)
        mine = [(batch.weight, batch.num_computed_tokens) for batch in batches]
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, mine)
        found.append(gathered)
    return found


def test_ranks_run_equally_many_passes_and_fill_up_with_their_shortest_row(tiny_audio_model: Path) -> None:
    many, one = run_ranks(count_passes, 2, str(tiny_audio_model))
    busy, idle = many
    assert len(busy) == len(idle) > 2
    assert all(weight == 1.0 for weight, _ in busy)
    assert [weight for weight, _ in idle] == [1.0] + [0.0] * (len(busy) - 1)
    assert idle[1][1] < idle[0][1], "a filler is a row, not a group"
    assert [[weight for weight, _ in passes] for passes in one] == [[1.0], [1.0]]
