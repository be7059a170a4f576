"""The engines that generate responses."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.setting import setting


@dataclass
class RolloutConfig:
    """The vLLM engines that generate responses."""

    num_workers: int = setting(1, ge=1)
    """Rollout workers; each runs one vLLM engine."""
    tensor_parallel_size: int = setting(1, ge=1)
    """GPUs per engine."""
    num_cpus: float = setting(1.0, gt=0)
    """CPU cores that Ray reserves per worker."""
    num_threads: int = setting(0, ge=0)
    """Compute threads of an engine on the CPU. 0: one per reserved core."""

    temperature: float = setting(1.0, gt=0, why="a temperature of 0 gives groups without variance")
    """Sampling temperature in training. Validation answers are greedy."""
    top_p: float = setting(1.0, gt=0, le=1)
    """Sample only from the likeliest tokens whose probabilities add up to `top_p`. 1: from all."""
    top_k: int = setting(0, ge=0)
    """Sample only from the `top_k` likeliest tokens. 0: from all."""
    min_p: float = setting(0.0, ge=0, le=1)
    """Sample only tokens at least `min_p` times as likely as the likeliest. 0: all."""
    stop: list[str] = field(default_factory=list)
    """A response ends after any of these texts, which stay part of it."""
    max_response_tokens: int = setting(512, ge=1)
    """Longest response in tokens."""
    max_num_seqs: int = setting(256, ge=1)
    """Most sequences that an engine generates at the same time."""
    gpu_memory_utilization: float = setting(0.9, gt=0, le=1)
    """Share of a GPU's memory that an engine may take."""
    kv_cache_gib: int = setting(1, ge=1)
    """Key-value cache of an engine on the CPU, in GiB."""
    engine_args: dict[str, object] = field(default_factory=dict)
    """Further vLLM engine arguments, passed to vLLM unchanged."""

    weight_transfer: Literal["auto", "nccl", "gloo"] = "auto"
    """Backend of the weight sync. `auto`: nccl on GPUs, gloo on CPUs."""
    weight_transfer_port: int = setting(0, ge=0, le=65535)
    """TCP port of the group of learners and engines for the weight sync. 0: any free port."""
    start_timeout_s: float = setting(600.0, gt=0)
    """Longest wait for the engines to start, in seconds."""
    sync_timeout_s: float = setting(300.0, gt=0)
    """Longest wait for one weight sync, in seconds."""
    generate_timeout_s: float = setting(1800.0, gt=0)
    """Longest wait for the responses of one group, in seconds, the engine's queue and pauses for syncs included."""
