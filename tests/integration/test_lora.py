"""LoRA on real DeepSpeed and a real engine: nothing depends on ranks or ZeRO stage, and engines get merged weights."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ssr1_rl.types import SOFTMAX
from tests.integration.ranks import make_learner, relative_difference, run_ranks, share_of, whole_gradient

STAGES = (0, 1, 2, 3)
ALPHA = 8.0


def lora_learner(rank: int, world_size: int, port: int, model: str, stage: int, alpha: float = ALPHA) -> Any:
    from ssr1_rl.config.sections.model import LoraConfig

    lora = LoraConfig(rank=4, alpha=alpha, target_modules=["q_proj", "up_proj"])
    return make_learner(
        rank,
        world_size,
        port,
        model,
        of_model={"lora": lora},
        grpo={"kl_coefficient": 0.05},
        zero_stage=stage,
        learning_rate=1e-2,
    )


def train_and_save(rank: int, world_size: int, port: int, model: str, folder: Path) -> dict[str, float]:
    """Two updates and a checkpoint in `folder`; then one more: its metrics."""
    from ssr1_rl.trainer.learner_state import save_learner

    learner = lora_learner(rank, world_size, port, model, stage=0)
    share = share_of(learner, world_size)
    learner.update([share])
    learner.update([share])
    save_learner(learner, folder)
    return learner.update([share])


def what_a_resumed_learner_does(
    rank: int, world_size: int, port: int, model: str, folder: Path
) -> dict[int, dict[str, Any]]:
    """For every ZeRO stage: the gradient, the weights as they are sent, and the metrics of an update."""
    from ssr1_rl.trainer.learner_state import load_learner
    from ssr1_rl.weights.source import ZeroWeightSource

    found = {}
    for stage in STAGES:
        learner = lora_learner(rank, world_size, port, model, stage)
        load_learner(learner, folder)
        assert (learner.num_updates, learner.policy_version) == (2, 2)
        share = share_of(learner, world_size)
        sent = [{n: t.numpy().copy() for n, t in ZeroWeightSource(learner.model)} for _ in range(2)]
        assert all(np.array_equal(sent[0][name], sent[1][name]) for name in sent[0]), "merging leaves weights alone"
        metadata = {m.name: m.shape for m in ZeroWeightSource(learner.model).metadata()}
        assert metadata == {name: tensor.shape for name, tensor in sent[0].items()}
        grads = whole_gradient(learner, share)
        with_gradient = {n for n, p in learner.model.named_parameters() if p.requires_grad}
        assert all(".lora_" in name for name in with_gradient)
        learner.engine.optimizer.zero_grad()
        fresh = lora_learner(rank, world_size, port, model, stage)
        load_learner(fresh, folder)
        found[stage] = {"grads": grads, "sent": sent[0], "metrics": fresh.update([share])}
    return found


@pytest.fixture(scope="module")
def saved(tiny_audio_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A checkpoint after two updates, and the metrics of the third."""
    folder = tmp_path_factory.mktemp("lora") / "learner"
    folder.mkdir()
    return folder, run_ranks(train_and_save, 1, str(tiny_audio_model), folder)


def test_a_checkpoint_holds_the_adapters_alone(saved: tuple[Path, dict[str, float]]) -> None:
    folder, _ = saved
    adapters = load_file(folder / "weights-00000.safetensors")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in adapters)
    assert load_file(folder / "exp_avg-00000.safetensors").keys() == adapters.keys()
    assert any(bool(t.any()) for n, t in adapters.items() if ".lora_B." in n), "B starts at 0 and is trained"
    assert json.loads((folder / "learner.json").read_text())["lora"] == {"rank": 4, "alpha": ALPHA}


@pytest.mark.parametrize("world_size", [1, 2])
def test_stage_and_ranks_change_nothing(
    saved: tuple[Path, dict[str, float]], tiny_audio_model: Path, world_size: int
) -> None:
    folder, expected = saved
    adapters = load_file(folder / "weights-00000.safetensors")
    base = load_file(tiny_audio_model / "model.safetensors")
    found = run_ranks(what_a_resumed_learner_does, world_size, str(tiny_audio_model), folder)
    for stage, results in found.items():
        assert relative_difference(results["grads"], found[0]["grads"]) <= 1e-5, f"ZeRO stage {stage}"
        for name in ("loss", "grad_norm", "entropy", "kl_to_reference"):
            assert results["metrics"][name] == pytest.approx(expected[name], rel=2e-4), (stage, name)
        assert results["metrics"]["kl_to_reference"] > 1e-4, "the policy has left its base"
        assert results["sent"].keys() == base.keys()
        for name, tensor in results["sent"].items():
            inner = "model." + name.replace("language_model.model.", "language_model.").removesuffix(".weight")
            delta = torch.zeros(())
            if f"{inner}.lora_A.weight" in adapters:
                delta = ALPHA / 4 * adapters[f"{inner}.lora_B.weight"] @ adapters[f"{inner}.lora_A.weight"]
                assert bool(delta.any())
            assert np.allclose(tensor, (base[name] + delta).numpy(), atol=1e-6), (stage, name)


def resume_with_another_alpha(rank: int, world_size: int, port: int, model: str, folder: Path) -> str:
    from ssr1_rl.trainer.learner_state import load_learner

    with pytest.raises(ValueError) as caught:
        load_learner(lora_learner(rank, world_size, port, model, 1, alpha=16.0), folder)
    return str(caught.value)


def test_another_alpha_would_be_another_policy(saved: tuple[Path, dict[str, float]], tiny_audio_model: Path) -> None:
    message = run_ranks(resume_with_another_alpha, 1, str(tiny_audio_model), saved[0])
    assert "was written with model.lora {'rank': 4, 'alpha': 8.0}, but" in message
    assert "this run has {'rank': 4, 'alpha': 16.0}" in message


@pytest.mark.usefixtures("ray_cluster")
def test_engines_serve_the_merged_policy_and_so_does_its_export(soundworld: Path, tmp_path: Path) -> None:
    asyncio.run(_engines_serve_the_merged_policy(soundworld, tmp_path))


async def _engines_serve_the_merged_policy(soundworld: Path, tmp_path: Path) -> None:
    from ssr1_rl.actors.waits import Waits
    from ssr1_rl.config.sections.watch import CheckpointConfig
    from ssr1_rl.store.checkpoints import CheckpointStore
    from ssr1_rl.store.export import export_checkpoint
    from ssr1_rl.system import running_system

    config = small_config(soundworld, tmp_path)
    questions = await prepared_questions(config)
    async with running_system(config, max_clips=1, waits=Waits(), on_phase=lambda phase: None) as system:
        first = await train(system, questions, policy_version=0)
        assert first["logprob_abs_diff_max"] < 1e-4, "a fresh adapter changes nothing"
        await system.sync_weights(1, audit=True)
        metrics = await train(system, questions, policy_version=1)
        assert metrics["comparable_tokens"] > 50
        assert metrics["logprob_abs_diff_max"] < 1e-4
        checkpoint = await CheckpointStore(tmp_path, CheckpointConfig()).save(2, {}, None, system.learners.save)
        sent = await system.learners.weight_digests()
        unsynced = await train(system, questions, policy_version=2)
        assert unsynced["logprob_abs_diff_max"] > 1e-3, "the update moved the policy, and no sync has come since"
    export_checkpoint(checkpoint, config.model.path, tmp_path / "merged", "float32")
    check_merged_tensors(config, tmp_path / "merged", sent)
    await check_served(config, tmp_path / "merged", checkpoint, questions)


def small_config(soundworld: Path, folder: Path) -> Any:
    """One engine, two learner ranks, adapters in the language model and the tower."""
    from ssr1_rl.demo.run import demo_config

    return demo_config(
        soundworld,
        0,
        [
            f"run.dir={folder}",
            "rollout.num_workers=1",
            "rollout.num_threads=1",
            "rollout.num_cpus=0.5",
            "learner.num_workers=2",
            "learner.zero_stage=3",
            "learner.num_threads=1",
            "learner.num_cpus=0.5",
            "learner.learning_rate=0.03",
            "grpo.questions_per_step=4",
            "grpo.group_size=4",
            "grpo.num_minibatches=1",
            "model.lora.rank=4",
        ],
    )


async def prepared_questions(config: Any) -> list[Any]:
    from ssr1_rl.data.prompt import PromptBuilder
    from ssr1_rl.data.read import read_questions
    from ssr1_rl.rollout.prepare import Preparer

    preparer = Preparer(PromptBuilder(config.model.path, config.data), config.data)
    return [await preparer.prepare(q) for q in read_questions(config.data.train, 0.0).questions[:4]]


async def sampled(pool: Any, questions: list[Any]) -> list[Any]:
    """Four responses to each question."""
    from ssr1_rl.rollout.engine import Sampling
    from ssr1_rl.types import GroupId

    calls = [pool.generate(GroupId(0, str(i)), question, Sampling(4, 24)) for i, question in enumerate(questions)]
    return await asyncio.gather(*calls)


async def train(system: Any, questions: list[Any], policy_version: int) -> dict[str, float]:
    """One update on made-up advantages; its metrics compare engine and learner before the update.

    `policy_version`: the learner's, so that all tokens are compared.
    """
    from ssr1_rl.algorithm.step_batch import train_group
    from ssr1_rl.config.sections.grpo import GrpoConfig
    from ssr1_rl.types import ScoredGroup

    batch = []
    for group, question in zip(await sampled(system.pool, questions), questions, strict=True):
        scored = ScoredGroup(replace(group, submitted_version=policy_version), (0.0,) * 4, {})
        batch.append(replace(train_group(scored, question, GrpoConfig()), advantages_G=(1.5, -0.5, -0.5, -0.5)))
    return await system.learners.update(batch, kl_coefficient=0.0)


def check_merged_tensors(config: Any, folder: Path, sent: dict[str, Any]) -> None:
    """The export holds what engines received: the base weights, changed only in the targets."""
    from ssr1_rl.weights.audit import digest

    exported = load_file(folder / "model.safetensors")
    assert {name: digest(tensor) for name, tensor in exported.items()} == sent
    base = load_file(Path(config.model.path) / "model.safetensors")
    moved = {name for name in base if not torch.equal(base[name], exported[name])}
    assert {name.split(".")[-2] for name in moved} == set(config.model.lora.target_modules)
    assert len(moved) == 7 * 3 + 3 * 2, (
        "in 3 layers of the language model and, of the same names, 2 of the trained tower"
    )


async def check_served(config: Any, folder: Path, checkpoint: Any, questions: list[Any]) -> None:
    """A fresh engine on the exported folder gives the log-probs of the adapted, unmerged policy in transformers."""
    from ssr1_rl.actors.handle import Actor
    from ssr1_rl.actors.waits import Waits
    from ssr1_rl.rollout.engine import EngineSpec
    from ssr1_rl.rollout.pool import RolloutPool
    from ssr1_rl.rollout.worker import RolloutWorker
    from ssr1_rl.trainer.model.lora import adapters_off

    worker = Actor.create(RolloutWorker, {"num_cpus": 0.5})
    try:
        await worker.call(RolloutWorker.start, EngineSpec(str(folder), "float32", "cpu", 1024, 1, 0), config.rollout)
        groups = await sampled(RolloutPool([worker], 120.0, Waits()), questions)
    finally:
        await worker.call(RolloutWorker.shutdown)
        worker.kill()
    served = torch.tensor([x for group in groups for c in group.completions for x in c.logprobs])
    policy = unmerged_policy(config, checkpoint)
    found = policy_logprobs(policy, config, questions, groups)
    assert len(served) > 50
    assert (served - found).abs().max() < 1e-4
    with adapters_off(policy.model):
        assert (served - policy_logprobs(policy, config, questions, groups)).abs().max() > 1e-2


def unmerged_policy(config: Any, checkpoint: Any) -> Any:
    """The base model with the checkpoint's adapters beside its weights."""
    from ssr1_rl.trainer.learner_state import saved_weights
    from ssr1_rl.trainer.model.families import load_model
    from ssr1_rl.trainer.model.lora import add_adapters
    from ssr1_rl.trainer.model.policy import Policy
    from ssr1_rl.weights.adapters import adapted_modules
    from ssr1_rl.weights.parameters import named_adapters

    adapters = dict(saved_weights(checkpoint.learner))
    policy = Policy(load_model(config.model.path, torch.float32, "sdpa"), SOFTMAX, False)
    add_adapters(policy.model, config.model.lora.rank, config.model.lora.alpha, adapted_modules(adapters))
    with torch.no_grad():
        for name, parameter in named_adapters(policy.model).items():
            parameter.copy_(adapters[name])
    return policy


@torch.no_grad()
def policy_logprobs(policy: Any, config: Any, questions: list[Any], groups: list[Any]) -> torch.Tensor:
    """Log-probs of every sampled token, in the groups' order."""
    import ray

    from ssr1_rl.data.prompt import expand_audio_placeholders
    from ssr1_rl.trainer.batches.clips import ClipInputs
    from ssr1_rl.trainer.batches.rows import Row, collate

    mel_of = ClipInputs(config.model.path, lambda clip: ray.get(clip.waveform))
    placeholder = policy.model.config.audio_token_id
    found = []
    for question, group in zip(questions, groups, strict=True):
        lengths = question.num_audio_tokens
        prompt = tuple(expand_audio_placeholders(question.token_ids, placeholder, lengths))
        rows = [
            Row(prompt, question.waveforms, c.token_ids, c.logprobs, 1.0, True, num_audio_tokens=lengths)
            for c in group.completions
        ]
        found.append(policy(collate(rows, placeholder, mel_of, policy.model.config.audio_config.num_mel_bins))[0])
    return torch.cat(found)
