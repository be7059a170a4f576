"""ZeRO in bfloat16, with gradient checkpointing and a frozen tower, against an update in float32."""

import tempfile
from pathlib import Path
from typing import Any

from gpu_checks.processes import free_port, run_together
from gpu_checks.registry import need_gpus, num_gpus, only_gpu
from gpu_checks.small import learner_settings, random_groups, small_model

FLOAT32 = ("float32", 1, {})
WAYS = {False: [("bfloat16", 2, {}), ("bfloat16", 3, {})], True: []}
for _stage in (2, 3):
    WAYS[True].append(("bfloat16", _stage, {"offload_optimizer": "cpu"}))
WAYS[True].append(("bfloat16", 3, {"offload_optimizer": "cpu", "offload_parameters": "cpu"}))
"""(dtype, ZeRO stage, further settings of the learner), without and with offloading."""
METRICS = {"loss": 0.02, "grad_norm": 0.05, "entropy": 0.02}
"""Metrics of the update, and the difference to float32, relative or absolute, that rounding to bfloat16 explains."""
LEARNING_RATE = 1e-3


def run(device: str, offload: bool = False) -> str:
    """Two ranks where the machine has two devices, else one."""
    if device == "cuda":
        need_gpus(1)
    ranks = 2 if device == "cpu" else min(2, num_gpus())
    with tempfile.TemporaryDirectory() as folder:
        model = small_model(Path(folder))
        port = free_port()
        calls = [(train, (rank, ranks, port, device, model, [FLOAT32, *WAYS[offload]])) for rank in range(ranks)]
        places = [only_gpu(index) if device == "cuda" else {} for index in range(ranks)]
        expected, *results = run_together(calls, places)[0]
    worst = 0.0
    for (dtype, stage, further), found in zip(WAYS[offload], results, strict=True):
        way = f"ZeRO-{stage} in {dtype}{' with ' + ' and '.join(further) if further else ''}"
        for name, limit in METRICS.items():
            difference = abs(found[name] - expected[name]) / max(1.0, abs(expected[name]))
            assert difference < limit, f"{way}: {name} is {found[name]}, in float32 {expected[name]}"
            worst = max(worst, difference)
        assert found["moved"] > 0.5 * expected["moved"], f"{way}: weights moved by {found['moved']}"
    return f"{len(results)} ways on {ranks} rank(s), metrics within {worst:.1e} of float32"


def train(rank: int, ranks: int, port: int, device: str, model: Path, ways: list[Any]) -> list[dict[str, float]]:
    """One rank: for every way the metrics of an update, and how far it moved the weights that engines would get."""
    import torch

    from ssr1_rl.trainer.batches.balance import share_groups
    from ssr1_rl.trainer.learner import Learner, RankSpec
    from ssr1_rl.weights.source import ZeroWeightSource

    if device == "cuda":
        torch.cuda.set_device(0)
    groups = share_groups(random_groups(model, 4), ranks, lambda group: group.num_prompt_tokens)[rank]
    found = []
    for dtype, stage, further in ways:
        of_model = {"dtype": dtype, "gradient_checkpointing": True}
        of_learner = {"zero_stage": stage, "num_workers": ranks, "learning_rate": LEARNING_RATE, **further}
        settings = learner_settings(model, of_model, of_learner)
        learner = Learner(
            RankSpec(rank, ranks, "127.0.0.1", port, device), *settings, fetch_waveform=lambda clip: clip.waveform
        )
        before = {name: tensor.float().cpu().clone() for name, tensor in ZeroWeightSource(learner.model)}
        metrics = learner.update([groups])
        moved = [float((t.float().cpu() - before[name]).norm()) for name, t in ZeroWeightSource(learner.model)]
        found.append({name: metrics[name] for name in METRICS} | {"moved": sum(moved)})
    return found
