"""No result of the learner depends on how the work is divided: real DeepSpeed over gloo, float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.ranks import (
    groups_of,
    make_learner,
    num_tokens,
    random_groups,
    relative_difference,
    run_ranks,
    share_of,
    whole_gradient,
)

CUTS = [(stage, budget, False) for stage in (0, 1, 2, 3) for budget in (60, 100_000)] + [
    (0, 60, True),
    (3, 60, True),
]
"""ZeRO stage, tokens per micro-batch (60 splits groups), gradient checkpointing."""
FAMILY_CUTS = [(1, 100_000), (3, 100)]
# All settings that need each token's response, or that give a gradient without an advantage.
FAMILY = {
    "ratio": "sequence",
    "clip_high": 5.0,
    "denominator": "sequence",
    "entropy_bonus": 0.1,
    "kl_coefficient": 0.05,
    "kl_estimator": "k2",
    "importance_correction": "truncate",
    "importance_level": "sequence",
    "importance_cap": 100.0,
    "num_epochs": 2,
}

FAMILIES = [
    {
        "ratio": "geometric_mean",
        "denominator": "constant",
        "denominator_tokens": 7,
        "kl_coefficient": 0.05,
        "kl_importance_ratio": True,
        "importance_correction": "mask",
        "importance_cap": 400.0,
        "importance_floor": 0.001,
        "rejection_cap": 30.0,
        "off_policy_mask": 0.5,
    },
    {"clip": "soft", "ratio": "sequence", "denominator": "sequence", "rejection_cap": 30.0, "entropy_bonus": 0.1},
    {"ratio": "cispo", "clip_high": 4.0, "off_policy_mask": 1.0, "importance_correction": "truncate"},
]
"""What looks at whole responses, or drops them, and each denominator."""

TRAINED_TOWER = {"train_audio_tower": True}
KL = {"kl_coefficient": 0.05}


def cut(stage: int, budget: int) -> dict[str, int]:
    """Settings of section `learner`."""
    return {"zero_stage": stage, "max_tokens_per_micro_batch": budget}


def gradients(
    rank: int,
    world_size: int,
    port: int,
    model: str,
    cuts: list[tuple[int, int, bool]],
    settings: dict[str, Any] | None = None,
) -> dict[Any, dict[str, np.ndarray]]:
    """The whole gradient for every cut, by parameter."""
    from ssr1_rl.trainer.model import logprobs

    found = {}
    with pytest.MonkeyPatch.context() as patched:
        for stage, budget, checkpointing in cuts:
            # With the small budget few tokens make a chunk, and ranks have unequal numbers of chunks.
            patched.setattr(logprobs, "CHUNK_BYTES", budget * 100)
            learner = make_learner(
                rank,
                world_size,
                port,
                model,
                of_model={**TRAINED_TOWER, "gradient_checkpointing": checkpointing},
                grpo=KL,
                **cut(stage, budget),
                **(settings or {}),
            )
            found[stage, budget, checkpointing] = whole_gradient(learner, share_of(learner, world_size))
    return found


@pytest.fixture(scope="module")
def reference(tiny_audio_model: Path) -> dict[str, np.ndarray]:
    found = run_ranks(gradients, 1, str(tiny_audio_model), CUTS)
    check_all_equal(found, found[0, 100_000, False])
    return found[0, 100_000, False]


def check_all_equal(found: dict[Any, dict[str, np.ndarray]], reference: dict[str, np.ndarray]) -> None:
    for cut, grads in found.items():
        assert relative_difference(grads, reference) <= 1e-5, cut
        assert grads["loss"] == pytest.approx(reference["loss"], rel=1e-5)


def test_gradient_does_not_depend_on_stage_micro_batches_or_checkpointing(reference: dict[str, np.ndarray]) -> None:
    assert "audio_tower.embed_positions.weight" not in reference
    assert any(name.startswith("audio_tower.") for name in reference)


def test_gradient_does_not_depend_on_ranks(reference: dict[str, np.ndarray], tiny_audio_model: Path) -> None:
    check_all_equal(run_ranks(gradients, 2, str(tiny_audio_model), CUTS), reference)


def test_gradient_does_not_depend_on_prefix_packing(reference: dict[str, np.ndarray], tiny_audio_model: Path) -> None:
    cuts = [(0, 100_000, False), (3, 300, False)]
    check_all_equal(run_ranks(gradients, 2, str(tiny_audio_model), cuts, {"prefix_packing": False}), reference)


def test_gradient_of_qwen2_5_omni_does_not_depend_on_ranks_or_stage(tmp_path: Path) -> None:
    from tests.tiny_omni import build_tiny_omni

    model = str(build_tiny_omni(tmp_path / "omni", ["How many beeps are there?"]))
    whole = run_ranks(gradients, 1, model, [(0, 100_000, False)])[0, 100_000, False]
    assert any(name.startswith("thinker.audio_tower.layers") for name in whole)
    assert not any(name.startswith("thinker.visual") for name in whole)
    check_all_equal(run_ranks(gradients, 2, model, [(2, 60, False), (3, 60, True)]), whole)


def family_groups(learner: Any) -> Any:
    """Groups with advantages that differ from token to token; one group is masked as a whole, others in part."""
    groups = groups_of(learner)
    rng = np.random.default_rng(1)
    masks = [(True, False, True), (False, False, False), (True, True, True), (False, True, True)]
    return [
        replace(
            group,
            token_advantages=tuple(tuple(rng.standard_normal(len(r)).tolist()) for r in group.responses),
            loss_mask_G=mask,
        )
        for group, mask in zip(groups, masks, strict=True)
    ]


def family_results(rank: int, world_size: int, port: int, model: str) -> dict[tuple[int, int], dict[str, Any]]:
    """Gradient, KL to the reference after an update (by group and response), and metrics of two updates."""
    from ssr1_rl.trainer.batches.balance import share_groups

    def new_learner(stage: int, budget: int) -> Any:
        return make_learner(rank, world_size, port, model, of_model=TRAINED_TOWER, grpo=FAMILY, **cut(stage, budget))

    found = {}
    for stage, budget in FAMILY_CUTS:
        learner = new_learner(stage, budget)
        share = share_groups(family_groups(learner), world_size, num_tokens)[rank]
        found[stage, budget] = whole_gradient(learner, share)
        learner.engine.zero_grad()
        kl = {
            group.id.question_id: of_group for group, of_group in zip(share, learner.reference_kl(share), strict=True)
        }
        found[stage, budget]["kl of group 1"] = kl.get("1")
        learner = new_learner(stage, budget)
        found[stage, budget]["metrics"] = learner.update([share])
    return found


def test_the_family_does_not_depend_on_stage_micro_batches_or_ranks(tiny_audio_model: Path) -> None:
    one, two = (run_ranks(family_results, world_size, str(tiny_audio_model)) for world_size in (1, 2))
    kl = one[FAMILY_CUTS[0]]["kl of group 1"]
    assert [len(kl_T) for kl_T in kl] == [len(r) for r in random_groups(4, range(10, 20), 0)[1].responses]
    metrics = one[FAMILY_CUTS[0]]["metrics"]
    assert metrics["effective_sample_size"] < 0.99
    # Half of the ratios, the first update's, are to the very policy; the second's to the one before it. The engine's
    # log-probs are far from both.
    assert metrics["ratio_p50"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["ratio_max"] > 1.01
    for found in (one, two):
        for results in found.values():
            of_group_1 = results.pop("kl of group 1")
            if of_group_1 is not None:  # else it is the other rank's
                for kl_T, expected in zip(of_group_1, kl, strict=True):
                    assert kl_T == pytest.approx(expected, abs=1e-4)
            other = results.pop("metrics")
            for name in ("loss", "entropy", "kl_to_reference", "effective_sample_size", "grad_norm", "trained_tokens"):
                assert other[name] == pytest.approx(metrics[name], rel=2e-3), name
    reference = one[FAMILY_CUTS[0]]
    check_all_equal(one, reference)
    check_all_equal(two, reference)


def broken_groups(learner: Any) -> Any:
    """`family_groups`, with two log-probs that the engines got wrong; one of them is all of its response."""
    groups = family_groups(learner)
    first, *others = groups[2].rollout_logprobs
    broken = ((float("nan"), *first[1:]), (float("-inf"),) * len(others[0]), *others[1:])
    return [*groups[:2], replace(groups[2], rollout_logprobs=broken), groups[3]]


def gradients_of_families(rank: int, world_size: int, port: int, model: str) -> dict[Any, dict[str, np.ndarray]]:
    """The whole gradient for every family and cut, by parameter, and the denominators' counts."""
    from ssr1_rl.trainer.batches.balance import share_groups

    found = {}
    for index, family in enumerate(FAMILIES):
        for stage, budget in FAMILY_CUTS:
            learner = make_learner(
                rank, world_size, port, model, of_model=TRAINED_TOWER, grpo=family, **cut(stage, budget)
            )
            share = share_groups(broken_groups(learner), world_size, num_tokens)[rank]
            found[index, stage, budget] = whole_gradient(learner, share)
    return found


def test_no_family_depends_on_stage_micro_batches_or_ranks(tiny_audio_model: Path) -> None:
    """Also with masked responses, and with tokens whose log-prob is none."""
    one, two = (run_ranks(gradients_of_families, world_size, str(tiny_audio_model)) for world_size in (1, 2))
    for index in range(len(FAMILIES)):
        reference = one[(index, *FAMILY_CUTS[0])]
        for results in (one, two):
            check_all_equal({key: grads for key, grads in results.items() if key[0] == index}, reference)


def updates_that_fail(rank: int, world_size: int, port: int, model: str) -> dict[Any, tuple[str, float]]:
    """For every stage and failure: the error, and by how much the first trained parameter has changed."""
    import torch
    from deepspeed.utils import safe_get_full_fp32_param

    from ssr1_rl.faults.guards import GuardTripped
    from ssr1_rl.trainer import learner as module
    from ssr1_rl.weights.parameters import trainable_parameters

    class InfiniteGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, loss: Any) -> Any:
            return loss.clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            return grad * float("inf")

    def with_infinite_gradient(*args: Any) -> Any:
        terms = grpo_loss(*args)
        return replace(terms, loss=InfiniteGradient.apply(terms.loss))

    grpo_loss, found = module.grpo_loss, {}
    for stage, failure in ((0, "gradient"), (1, "gradient"), (2, "gradient"), (3, "gradient"), (1, "advantage")):
        learner = make_learner(rank, world_size, port, model, **cut(stage, 100_000))
        parameter = next(iter(trainable_parameters(learner.model).values()))
        read = safe_get_full_fp32_param if stage else lambda p: p.detach()
        before = read(parameter).clone()
        share = share_of(learner, world_size)
        if failure == "advantage" and rank == world_size - 1:
            share = [replace(share[0], advantages_G=(float("nan"), 0.1, 0.2)), *share[1:]]
        with pytest.MonkeyPatch.context() as patched:
            if failure == "gradient":
                patched.setattr(module, "grpo_loss", with_infinite_gradient)
            with pytest.raises(GuardTripped) as caught:
                learner.update([share])
        found[stage, failure] = (str(caught.value), float((read(parameter) - before).abs().max()))
        assert learner.num_updates == 0
    return found


def test_an_update_that_is_no_number_is_not_applied_on_any_rank(tiny_audio_model: Path) -> None:
    found = run_ranks(updates_that_fail, 2, str(tiny_audio_model))
    for (stage, failure), (message, change) in found.items():
        figure = "loss" if failure == "advantage" else "grad_norm"
        assert message.startswith(f"step 1: the learner's {figure} is "), (stage, failure)
        assert change == 0.0, (stage, failure)


def train_and_save(rank: int, world_size: int, port: int, model: str, stage: int, folder: Path) -> dict[str, float]:
    """Two updates, a checkpoint, then two more: the metrics of the last one."""
    import torch

    from ssr1_rl.trainer.learner_state import save_learner

    learner = make_learner(rank, world_size, port, model, of_model=TRAINED_TOWER, grpo=KL, **cut(stage, 100))
    share = share_of(learner, world_size)
    learner.update([share])
    learner.update([share])
    folder.mkdir(exist_ok=True)
    torch.distributed.barrier()
    save_learner(learner, folder)
    learner.update([share])
    return learner.update([share])


def load_and_train(
    rank: int, world_size: int, port: int, model: str, stages: tuple[int, ...], folder: Path
) -> list[dict[str, float]]:
    """For each ZeRO stage: the checkpoint, then two updates: the metrics of the last one."""
    from ssr1_rl.trainer.learner_state import load_learner

    found = []
    for stage in stages:
        learner = make_learner(rank, world_size, port, model, of_model=TRAINED_TOWER, grpo=KL, **cut(stage, 100))
        load_learner(learner, folder)
        assert (learner.num_updates, learner.policy_version) == (2, 2)
        share = share_of(learner, world_size)
        learner.update([share])
        found.append(learner.update([share]))
    return found


@pytest.mark.parametrize(("world_size", "stage"), [(1, 0), (2, 3)])
def test_checkpoint_resumes_under_any_stage_and_rank_count(
    tiny_audio_model: Path, tmp_path: Path, world_size: int, stage: int
) -> None:
    model, folder = str(tiny_audio_model), tmp_path / "learner"
    expected = run_ranks(train_and_save, world_size, model, stage, folder)
    other_world = 3 - world_size
    for metrics in run_ranks(load_and_train, other_world, model, (0, 1, 2, 3), folder):
        for name in ("loss", "grad_norm", "entropy", "kl_to_reference"):
            assert metrics[name] == pytest.approx(expected[name], rel=2e-4), name
