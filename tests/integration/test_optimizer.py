"""The optimizer on real DeepSpeed, two ranks: what decays, what is clipped, float32 masters, offload, exact resume."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.ranks import make_learner, run_ranks, share_of

Case = dict[str, Any]


def case_learner(rank: int, world_size: int, port: int, model: str, case: Case) -> Any:
    from ssr1_rl.config.sections.model import LoraConfig

    case = {"max_tokens_per_micro_batch": 100, **case}
    of_model = {"train_audio_tower": True, "lora": LoraConfig(rank=case.pop("rank", 0))}
    if "dtype" in case:
        of_model["dtype"] = case.pop("dtype")
    return make_learner(rank, world_size, port, model, of_model=of_model, **case)


def masters(learner: Any) -> dict[str, np.ndarray]:
    """The whole float32 parameters that the optimizer holds."""
    from ssr1_rl.trainer.learner_state import WEIGHTS, _in_optimizer
    from ssr1_rl.weights.parameters import trainable_parameters

    trained = trainable_parameters(learner.model)
    return {n: _in_optimizer(learner, p, WEIGHTS).float().numpy().copy() for n, p in trained.items()}


def in_use(learner: Any) -> dict[str, np.ndarray]:
    """The whole parameters that the forward pass uses, as float32."""
    from ssr1_rl.weights.parameters import gathered, trainable_parameters

    found = {}
    for name, parameter in trainable_parameters(learner.model).items():
        with gathered([parameter]):
            found[name] = parameter.detach().float().numpy().copy()
    return found


def one_update(rank: int, world_size: int, port: int, model: str, cases: list[Case]) -> list[dict[str, Any]]:
    """For every case: masters before and after one update, and its metrics."""
    found = []
    for case in cases:
        learner = case_learner(rank, world_size, port, model, case)
        before = masters(learner)
        metrics = learner.update([share_of(learner, world_size)])
        found.append({"before": before, "after": masters(learner), "metrics": metrics})
    return found


STAGES = [{"zero_stage": stage} for stage in (0, 1, 2, 3)]


def test_matrices_decay_and_vectors_do_not_and_both_follow_the_schedule(tiny_audio_model: Path) -> None:
    warm_up = {"warmup_steps": 2, "learning_rate": 0.1}
    cases = [{**stage, **warm_up, "weight_decay": decay} for stage in STAGES for decay in (0.0, 0.5)]
    found = run_ranks(one_update, 2, str(tiny_audio_model), cases)
    for free, decayed in zip(found[::2], found[1::2], strict=True):
        assert free["metrics"]["learning_rate"] == pytest.approx(0.05)
        for name, start in free["before"].items():
            moved = decayed["after"][name] - free["after"][name]
            expected = -0.05 * 0.5 * start if start.ndim > 1 else np.zeros_like(start)
            assert np.allclose(moved, expected, atol=2e-6), name
        assert any(start.ndim == 1 and start.any() for start in free["before"].values()), "a norm that could decay"


def test_gradients_are_clipped_by_their_global_norm(tiny_audio_model: Path) -> None:
    # With an epsilon far above every gradient, AdamW's step is learning_rate x gradient / epsilon.
    linear = {"adam_epsilon": 1e3, "learning_rate": 1e3}
    clipped = {**linear, "max_grad_norm": 0.02}
    cases = [{**stage, **clipped} for stage in STAGES]
    cases += [{**stage, **clipped, "dtype": "bfloat16"} for stage in STAGES[1:]]
    cases += [{"zero_stage": 2, **clipped, "dtype": "bfloat16", "offload_optimizer": "cpu"}]
    cases += [{"zero_stage": 1, **linear, "max_grad_norm": 1e6}]
    for case, found in zip(cases, run_ranks(one_update, 2, str(tiny_audio_model), cases), strict=True):
        steps = [found["after"][n].astype(np.float64) - found["before"][n] for n in found["before"]]
        length = np.sqrt(sum((step**2).sum() for step in steps))
        norm = found["metrics"]["grad_norm"]
        assert norm > 0.1, "the norm before clipping"
        assert length == pytest.approx(min(norm, case["max_grad_norm"]), rel=2e-3), case


def gradients(rank: int, world_size: int, port: int, model: str, cases: list[Case]) -> list[np.ndarray]:
    """For every case: the whole gradient of one micro-batch on each rank, read off a step that is linear in it."""
    linear = {"adam_epsilon": 1e6, "learning_rate": 1e6, "max_grad_norm": 1e6, "max_tokens_per_micro_batch": 10_000}
    found = []
    for case in cases:
        learner = case_learner(rank, world_size, port, model, {**linear, "dtype": "bfloat16", **case})
        before = masters(learner)
        learner.update([share_of(learner, world_size)])
        after = masters(learner)
        found.append(np.concatenate([(before[name] - after[name]).ravel() for name in before]))
    return found


def test_gradients_of_ranks_are_added_up_in_float32(tiny_audio_model: Path) -> None:
    cases = [{"zero_stage": stage} for stage in (1, 2, 3)]
    cases += [{"zero_stage": 2, "offload_optimizer": "cpu"}]
    for case, gradient in zip(cases, run_ranks(gradients, 2, str(tiny_audio_model), cases), strict=True):
        large = gradient[np.abs(gradient) > 1e-2]
        assert large.size > 100, "where the step can be read off the weights"
        # A rank's own gradients are bfloat16; their sum is mostly not.
        rounded = (np.round(large.view(np.uint32) / 2**16) * 2**16).astype(np.uint32).view(np.float32)
        off = np.abs(rounded - large) / np.abs(large)
        assert (off > 5e-4).mean() > 0.1, f"{case}: {(off > 5e-4).mean():.2f} of the sums are no bfloat16"


def tiny_updates(rank: int, world_size: int, port: int, model: str, cases: list[Case]) -> list[dict[str, Any]]:
    """For every case: masters and parameters in use at the start, after one and after four updates."""
    found = []
    for case in cases:
        learner = case_learner(rank, world_size, port, model, {"learning_rate": 1e-6, **case})
        seen = []
        for num_updates in (0, 1, 3):
            for _ in range(num_updates):
                learner.update([share_of(learner, world_size)])
            seen.append((masters(learner), in_use(learner)))
        found.append(seen)
    return found


def test_an_update_below_bfloat16s_resolution_is_not_lost(tiny_audio_model: Path) -> None:
    cases = [{"zero_stage": stage, "dtype": "bfloat16"} for stage in (1, 2, 3)]
    for case, seen in zip(cases, run_ranks(tiny_updates, 2, str(tiny_audio_model), cases), strict=True):
        name = "language_model.model.norm.weight"
        (start, used), (first, used_first), (last, used_last) = ((m[name], u[name]) for m, u in seen)
        assert np.array_equal(start, used)
        assert np.abs(start).min() > 0.5, "where bfloat16's steps are 2e-3 and more"
        assert np.array_equal(used, used_first), f"{case}: nothing to see in bfloat16"
        assert np.array_equal(used, used_last), f"{case}: nothing to see in bfloat16"
        moved = np.abs(first - start) > 5e-7
        assert moved.mean() > 0.9
        # Adam's steps on the same batch keep one direction, with a size of about the learning rate.
        assert np.median(np.abs(last - start)[moved]) == pytest.approx(4e-6, rel=0.1)


RESUMED = [
    {"zero_stage": 1},
    {"zero_stage": 2, "offload_optimizer": "cpu"},
    {"zero_stage": 2, "rank": 4},
    {"zero_stage": 3},
    {"zero_stage": 3, "rank": 4, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
]


def resume(rank: int, world_size: int, port: int, model: str, folder: Path) -> list[dict[str, Any]]:
    """For every case: the masters of a run, and of one that was saved and loaded in between."""
    import torch

    from ssr1_rl.trainer.learner_state import load_learner, save_learner

    found = []
    for index, case in enumerate(RESUMED):
        run = case_learner(rank, world_size, port, model, {**case, "dtype": "bfloat16", "weight_decay": 0.1})
        share = share_of(run, world_size)
        for _ in range(2):
            run.update([share])
        checkpoint = folder / str(index)
        checkpoint.mkdir(exist_ok=True)
        torch.distributed.barrier()
        save_learner(run, checkpoint)
        saved = masters(run)
        other = case_learner(rank, world_size, port, model, {**case, "dtype": "bfloat16", "weight_decay": 0.1})
        load_learner(other, checkpoint)
        loaded, loaded_in_use = masters(other), in_use(other)
        run.update([share])
        other.update([share])
        found.append(
            {"saved": saved, "loaded": loaded, "in_use": loaded_in_use, "run": masters(run), "resumed": masters(other)}
        )
    return found


def test_a_bfloat16_run_resumes_bit_for_bit(tiny_audio_model: Path, tmp_path: Path) -> None:
    for case, found in zip(RESUMED, run_ranks(resume, 2, str(tiny_audio_model), tmp_path), strict=True):
        for name, master in found["saved"].items():
            assert np.array_equal(found["loaded"][name], master), (case, name)
            assert np.array_equal(found["resumed"][name], found["run"][name]), (case, name)
        assert any(not np.array_equal(found["in_use"][n], m) for n, m in found["saved"].items()), "masters are finer"
        assert any(not np.array_equal(found["run"][n], m) for n, m in found["saved"].items()), "it went on"
