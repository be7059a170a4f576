"""An engine and a learner: log-probs agree at the start, differ after an update, and agree again after a weight sync.

On GPUs the engine runs with CUDA graphs. With a GPU left for the learner the sync goes over NCCL, else both share one
and it goes over gloo.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from gpu_checks.processes import Worker, free_port
from gpu_checks.registry import NotPossible, need_gpus, need_package, num_gpus, only_gpu
from gpu_checks.small import learner_settings, questions, small_model, train_group

DTYPES = {"cuda": "bfloat16", "cpu": "float32"}
TOLERANCE = {"cuda": 0.05, "cpu": 1e-4}
"""Largest mean difference in nats."""
ADVANTAGES = (1.5, -0.5, -0.5, -0.5)


def run(device: str, tensor_parallel_size: int = 1, first: bool = False) -> str:
    """Starts both sides and compares them three times. `first`: with vLLM's first model runner."""
    need_package("vllm")
    if first and device == "cpu":
        raise NotPossible("on a CPU it is the only one")
    if first:
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    if device == "cuda":
        need_gpus(tensor_parallel_size)
    elif tensor_parallel_size > 1:
        raise NotPossible("it needs GPUs")
    own_gpu = device == "cuda" and num_gpus() > tensor_parallel_size
    place = only_gpu(tensor_parallel_size if own_gpu else 0) if device == "cuda" else {}
    if device == "cuda":
        # Before vLLM is imported, which reads it.
        os.environ |= only_gpu(*range(tensor_parallel_size))
    learner = Worker(place)
    try:
        with tempfile.TemporaryDirectory() as folder:
            model = small_model(Path(folder))
            backend = "nccl" if own_gpu else "gloo"
            return asyncio.run(compare(model, device, backend, tensor_parallel_size, learner))
    finally:
        learner.end()


async def compare(model: Path, device: str, backend: str, tensor_parallel_size: int, learner: Worker) -> str:
    """The three comparisons; `learner` is the process of the learner rank."""
    from ssr1_rl.faults.guards import check_weights
    from ssr1_rl.weights.transport import Rendezvous

    learner.send(start_rank, model, device, free_port())
    engine = await start_engine(model, device, backend, tensor_parallel_size)
    try:
        await asyncio.to_thread(learner.receive)
        rendezvous = Rendezvous(backend, "127.0.0.1", free_port(), 1 + tensor_parallel_size, 300.0)
        update_info = learner.call(on_rank, "update_info")
        learner.send(on_rank, "join_engines", rendezvous)
        await engine.init_weight_transfer(rendezvous.of_engine(1), update_info)
        await asyncio.to_thread(learner.receive)

        fresh = await compared(engine, learner, model, 0)
        stale = await compared(engine, learner, model, 1)
        await engine.start_weight_audit()
        learner.send(on_rank, "send_weights")
        await engine.apply_weights(2)
        await asyncio.to_thread(learner.receive)
        reports = await engine.finish_weight_audit()
        check_weights(learner.call(on_rank, "weight_digests"), reports)
        synced = await compared(engine, learner, model, 2)
    finally:
        engine.shutdown()
    for name, found in (("at the start", fresh), ("after a sync", synced)):
        assert found <= TOLERANCE[device], f"{name} log-probs differ by {found:.2g} nats on average"
    assert stale > 3 * max(fresh, synced), f"without a sync they differ by {stale:.2g}, with one by {synced:.2g}"
    return f"over {backend}: mean difference {fresh:.1e} nats, {stale:.1e} without a sync, {synced:.1e} after it"


async def start_engine(model: Path, device: str, backend: str, tensor_parallel_size: int) -> Any:
    """The engine, in this process and those that vLLM starts."""
    from ssr1_rl.config.sections.rollout import RolloutConfig
    from ssr1_rl.rollout.engine import EngineSpec, RolloutEngine

    config = RolloutConfig(
        tensor_parallel_size=tensor_parallel_size,
        gpu_memory_utilization=0.4,
        weight_transfer=backend,  # pyright: ignore[reportArgumentType]
    )
    spec = EngineSpec(str(model), DTYPES[device], device, max_model_len=1024, max_clips=1, seed=0)
    return await RolloutEngine.start(spec, config)


async def compared(engine: Any, learner: Worker, model: Path, version: int) -> float:
    """Mean difference of log-probs before the update that the learner then makes.

    `version` is the learner's, so that all tokens are compared.
    """
    from ssr1_rl.rollout.engine import Sampling

    sampling = Sampling(num_completions=len(ADVANTAGES), max_response_tokens=32, seed=version)
    prepared = questions(model, 4, seed=version)
    calls = [
        engine.generate(
            f"{version}-{index}", question.token_ids, [clip.waveform for clip in question.waveforms], sampling
        )
        for index, question in enumerate(prepared)
    ]
    groups = [
        train_group(question, [c.token_ids for c in found], [c.logprobs for c in found], version, ADVANTAGES)
        for question, (found, _) in zip(prepared, await asyncio.gather(*calls), strict=True)
    ]
    metrics = await asyncio.to_thread(learner.call, on_rank, "update", [groups], 0.0)
    assert metrics["comparable_tokens"] > 50, f"only {metrics['comparable_tokens']:g} tokens can be compared"
    return metrics["logprob_abs_diff_mean"]


_rank: list[Any] = []
"""In the learner's process: its rank."""


def start_rank(model: Path, device: str, port: int) -> None:
    """Makes the learner's one rank in this process."""
    from ssr1_rl.trainer.learner import RankSpec
    from ssr1_rl.trainer.rank import LearnerRank

    settings = learner_settings(model, {"dtype": DTYPES[device]}, {"zero_stage": 3, "learning_rate": 0.01})
    _rank.append(LearnerRank())
    _rank[0].start(RankSpec(0, 1, "127.0.0.1", port, device), *settings)


def on_rank(method: str, *args: Any) -> Any:
    """Calls a method of the rank in this process."""
    return getattr(_rank[0], method)(*args)
