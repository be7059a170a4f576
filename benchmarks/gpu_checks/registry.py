"""The list of checks."""

import importlib.util
import os
from dataclasses import dataclass, field
from typing import Any


class NotPossible(Exception):
    """A check cannot run on this machine; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check, which runs in a process of its own.

    Attributes:
        module: file in this folder; its function `run(device, **options)` returns what it found, in a few words.
        shows: what is right if it passes.
        limit_s: after this many seconds it has failed.
        starts_engines: whether it starts vLLM, which takes a minute and more.
    """

    name: str
    module: str
    shows: str
    limit_s: int
    options: dict[str, Any] = field(default_factory=dict)
    starts_engines: bool = False


CHECKS = (
    Check("attention_sdpa", "attention", "SDPA over packed rows is exact", 120, {"backend": "sdpa"}),
    Check("attention_flash", "attention", "flash-attn agrees with exact attention", 300, {"backend": "flash"}),
    Check("attention_flex", "attention", "compiled FlexAttention agrees with it", 600, {"backend": "flex"}),
    Check("audio_tower", "audio_tower", "clips are encoded as in float32 on the CPU", 300),
    Check("learner_pass", "learner_pass", "benchmarks/gpu_learner.py runs", 600),
    Check("zero", "zero", "ZeRO 2 and 3 in bfloat16, with checkpointing, train as float32", 900),
    Check("offload", "zero", "so they do with optimizer and parameters in host memory", 900, {"offload": True}),
    Check("sft", "sft", "SFT on Ray Train's workers learns, full and with LoRA, and its export loads", 900),
    Check("weight_sync", "weight_sync", "repeated syncs of ZeRO-3 shards arrive bit by bit", 600),
    Check("engine", "engine", "after a sync an engine computes the learner's log-probs", 1200, {}, True),
    Check("engine_first_runner", "engine", "so does one with vLLM's first model runner", 1200, {"first": True}, True),
    Check("tensor_parallel", "engine", "so does one on two GPUs", 1200, {"tensor_parallel_size": 2}, True),
)


def need_gpus(number: int) -> None:
    """Raises `NotPossible` on a machine with fewer GPUs."""
    found = num_gpus()
    if found < number:
        raise NotPossible(f"it needs {number} GPU{'s' * (number > 1)}, and {found} can be seen")


def num_gpus() -> int:
    """GPUs that this process can see."""
    import torch

    return torch.cuda.device_count()


def need_package(name: str) -> None:
    """Raises `NotPossible` if the package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise NotPossible(f"the package {name} is not installed")


def only_gpu(*indices: int) -> dict[str, str]:
    """Environment in which a process sees only these of the GPUs that this one sees."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else list(map(str, range(num_gpus())))
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[index] for index in indices)}
