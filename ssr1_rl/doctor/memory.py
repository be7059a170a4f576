"""Whether each role fits into the memory of its device, by the dry run's own estimate."""

from dataclasses import fields

from ssr1_rl.checks.memory import BYTES, MemoryEstimate
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.doctor.finding import Finding, error, ok, warning

GIB = 2**30
ENGINE_EXTRA = 3 * GIB
"""What an engine holds beside weights and key-value cache: activations of a batch and CUDA graphs, roughly."""


def learner_bytes(estimate: MemoryEstimate, learner: LearnerConfig) -> int:
    """Estimated bytes of one rank on its device, without what is offloaded."""
    offloaded = set()
    if learner.offload_optimizer != "none":
        offloaded.add("learner_optimizer")
    if learner.offload_parameters != "none":
        offloaded |= {"learner_weights", "learner_reference"}
    names = [spec.name for spec in fields(estimate) if spec.name.startswith("learner_")]
    return sum(getattr(estimate, name) for name in names if name not in offloaded)


def check_gpu_memory(
    config: Config, estimate: MemoryEstimate, kv_bytes_per_token: int, gpu_bytes: int
) -> list[Finding]:
    """Compares a learner rank and an engine with the smallest GPU of the cluster."""
    return [
        _learner(learner_bytes(estimate, config.learner), gpu_bytes),
        _engine(config, estimate.engine_weights, kv_bytes_per_token, gpu_bytes),
    ]


def _learner(needed: int, gpu_bytes: int) -> Finding:
    text = f"a learner rank takes about {needed / GIB:.0f} of {gpu_bytes / GIB:.0f} GiB"
    fixes = (
        "raise learner.num_workers or learner.zero_stage, set model.gradient_checkpointing=true, lower "
        "learner.max_tokens_per_micro_batch, or set learner.offload_optimizer=cpu"
    )
    if needed > gpu_bytes:
        return error(text, "the learners would run out of memory", fixes)
    if needed > 0.9 * gpu_bytes:
        return warning(text, "the estimate of activations is rough", fixes)
    return ok(text)


def _engine(config: Config, weights: int, kv_bytes_per_token: int, gpu_bytes: int) -> Finding:
    rollout = config.rollout
    length = config.data.max_prompt_tokens + rollout.max_response_tokens
    room = int(rollout.gpu_memory_utilization * gpu_bytes) - weights - ENGINE_EXTRA
    tokens = max(0, room) * rollout.tensor_parallel_size // kv_bytes_per_token
    text = (
        f"an engine's cache holds about {tokens:,} tokens beside {weights / GIB:.1f} GiB of weights: "
        f"{tokens // length} sequences of {length:,} tokens at a time"
    )
    fixes = (
        "raise rollout.tensor_parallel_size or rollout.gpu_memory_utilization, or lower data.max_prompt_tokens and "
        "rollout.max_response_tokens"
    )
    if tokens < length:
        return error(text, "vLLM refuses to start if not even one sequence fits", fixes)
    if tokens < config.grpo.group_size * length:
        return warning(text, "not even one group is generated at once", fixes)
    return ok(text)


def check_host_memory(config: Config, estimate: MemoryEstimate, memory_bytes: int) -> Finding:
    """On CPUs all roles share the memory of the node."""
    rollout = config.rollout
    learners = config.learner.num_workers * learner_bytes(estimate, config.learner)
    engines = rollout.num_workers * (estimate.engine_weights + rollout.kv_cache_gib * GIB)
    text = f"learners and engines take about {(learners + engines) / GIB:.1f} of {memory_bytes / GIB:.1f} GiB"
    if learners + engines > memory_bytes:
        return error(text, "the kernel would kill actors", "lower rollout.kv_cache_gib or the number of workers")
    return ok(text)


def kv_bytes_per_token(config: Config, num_layers: int, num_kv_heads: int, head_dim: int) -> int:
    """Bytes of keys and values of one token in all layers."""
    return 2 * num_layers * num_kv_heads * head_dim * BYTES[config.model.dtype]


def checkpoint_bytes(config: Config, estimate: MemoryEstimate) -> int:
    """Bytes of one checkpoint: float32 weights and two moments of what is trained, and the frozen weights."""
    frozen = 0 if config.model.lora.rank else estimate.num_parameters - estimate.num_trained
    return 12 * estimate.num_trained + BYTES[config.model.dtype] * frozen
