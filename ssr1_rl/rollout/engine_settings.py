"""What every vLLM engine of this package is started with, and how each request is sampled. Does not import vLLM.

Rollout workers (`ssr1_rl.rollout.engine`) and the engines of batch inference (`ssr1_rl.inference.engines`) share it.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from ssr1_rl.types import Distribution


class EngineResources(Protocol):
    """Settings of an engine that do not depend on what it is used for."""

    @property
    def tensor_parallel_size(self) -> int: ...
    @property
    def num_cpus(self) -> float: ...
    @property
    def num_threads(self) -> int: ...
    @property
    def max_num_seqs(self) -> int: ...
    @property
    def gpu_memory_utilization(self) -> float: ...
    @property
    def kv_cache_gib(self) -> int: ...


def common_args(dtype: str, device: str, max_model_len: int, seed: int, settings: EngineResources) -> dict[str, Any]:
    """vLLM's engine arguments for any model and any use."""
    args: dict[str, Any] = {
        "dtype": dtype,
        "seed": seed,
        "max_model_len": max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        # Without it vLLM takes 2048 on GPUs, so the prompts of a step would wait for each other.
        "max_num_batched_tokens": max(8192, max_model_len),
        "tensor_parallel_size": settings.tensor_parallel_size,
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        # On GPUs vLLM's own choice inside a placement group is "ray", which needs a bundle for each GPU of the engine.
        "distributed_executor_backend": "uni" if settings.tensor_parallel_size == 1 else "mp",
    }
    if device == "cpu":
        args |= {
            "enforce_eager": True,
            "enable_chunked_prefill": False,
            # A prefix is cached in whole blocks: with vLLM's default of 128 tokens on CPUs, up to 127 tokens of a
            # prompt would be computed again for every response.
            "block_size": 32,
        }
    else:
        args["gpu_memory_utilization"] = settings.gpu_memory_utilization
    return args


def environment(device: str, settings: EngineResources) -> dict[str, str]:
    """The environment variables of the process in which vLLM is imported."""
    variables = {
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        "VLLM_NO_USAGE_STATS": os.environ.get("VLLM_NO_USAGE_STATS", "1"),
    }
    if device == "cpu":
        variables |= {
            "OMP_NUM_THREADS": str(settings.num_threads or max(1, round(settings.num_cpus))),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # "0" keeps the model in the engine's process. A process of its own ("1") makes rollouts of a small model
            # take 1.7 times as long.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if settings.tensor_parallel_size == 1 else "1",
            "VLLM_CPU_KVCACHE_SPACE": str(settings.kv_cache_gib),
        }
    return variables


def sampling_fields(distribution: Distribution, max_response_tokens: int, seed: int) -> dict[str, Any]:
    """The fields of vLLM's `SamplingParams` that have a default in `generation_config.json`, and the length."""
    return {
        "temperature": distribution.temperature,
        "top_p": distribution.top_p,
        "top_k": distribution.top_k,
        "min_p": distribution.min_p,
        "seed": None if distribution.temperature == 0 else seed,
        "max_tokens": max_response_tokens,
        "min_tokens": 0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": None,
        "skip_special_tokens": False,  # a text that ends a response may be a tag that is a special token
    }
