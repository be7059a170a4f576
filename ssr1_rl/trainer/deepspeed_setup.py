"""DeepSpeed as the learner starts it: peers, sharded loading, the engine, and its configuration."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ssr1_rl.config.schema import LearnerConfig, ModelConfig
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.lora import adapters_off
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.weights.parameters import trainable_parameters, whole_shape

if TYPE_CHECKING:
    from ssr1_rl.trainer.learner import RankSpec


def join_peers(spec: "RankSpec", config: LearnerConfig) -> None:
    """Forms the learners' process group. Sets what DeepSpeed reads from the environment first."""
    os.environ.update(
        RANK=str(spec.rank),
        WORLD_SIZE=str(spec.world_size),
        LOCAL_RANK="0",
        MASTER_ADDR=spec.master_address,
        MASTER_PORT=str(spec.master_port),
    )
    if spec.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(config.num_threads or max(1, round(config.num_cpus)))
    import deepspeed

    if spec.device == "cpu":
        # DeepSpeed would compile a shared-memory all-reduce (30 s, needs a C++ compiler); gloo does without.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if spec.device == "cpu" else "nccl"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def _torch_dtype(model: ModelConfig) -> torch.dtype:
    return getattr(torch, model.dtype)


def load_for_zero(model: ModelConfig, learner: LearnerConfig, world_size: int, attention: str) -> Any:
    """Loads the policy; under ZeRO-3 every rank keeps only its shard while loading."""
    if learner.zero_stage < 3:
        return load_model(model.path, _torch_dtype(model), attention)
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers shards while it loads as long as this object lives.
    sharding = HfDeepSpeedConfig(deepspeed_settings(model, learner) | {"train_batch_size": world_size})
    loaded = load_model(model.path, _torch_dtype(model), attention)
    del sharding
    return loaded


def start_deepspeed(policy: Policy, model: ModelConfig, learner: LearnerConfig) -> Any:
    """The engine that trains what `requires_grad` says, by torch's AdamW."""
    import deepspeed

    optimizer = torch.optim.AdamW(
        parameter_groups(policy.model, learner.weight_decay),
        lr=learner.learning_rate,
        betas=learner.adam_betas,
        eps=learner.adam_epsilon,
        fused=True,
    )
    engine, *_ = deepspeed.initialize(
        model=policy, optimizer=optimizer, config=deepspeed_settings(model, learner), dist_init_required=False
    )
    return engine


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and convolutions decay, embeddings and adapters among them; vectors, so norms and biases, do not."""
    parameters = trainable_parameters(model).values()
    decaying = [p for p in parameters if len(whole_shape(p)) > 1]
    others = [p for p in parameters if len(whole_shape(p)) <= 1]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def load_reference(engine: Any, model: ModelConfig, learner: LearnerConfig, temperature: float, attention: str) -> Any:
    """The frozen starting policy of the KL term: with LoRA the policy with its adapters off, else a second model.

    A second model is sharded like the policy under ZeRO-3.
    """
    if model.lora.rank:
        return BasePolicy(engine)
    loaded = load_for_zero(model, learner, dist.get_world_size(), attention)
    reference = Policy(loaded, temperature, False, attention, learner.prefix_packing)
    reference.requires_grad_(False)
    reference.eval()
    if learner.zero_stage < 3:
        return reference.to("cpu" if os.environ.get("DS_ACCELERATOR") == "cpu" else "cuda")
    import deepspeed

    reference_engine, *_ = deepspeed.initialize(
        model=reference, config=deepspeed_settings(model, learner), dist_init_required=False
    )
    return reference_engine


class BasePolicy:
    """A policy's frozen base: its log-probs with the adapters off, from the same weights in memory."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __call__(self, batch: MicroBatch) -> Any:
        """See `Policy.forward`."""
        with adapters_off(self._engine.module.model):
            return self._engine(batch)


def deepspeed_settings(model: ModelConfig, learner: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed's configuration; `learner.deepspeed` adds to it and cannot contradict it (checked on loading)."""
    zero: dict[str, Any] = {"stage": learner.zero_stage}
    if learner.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": learner.offload_optimizer}
    if learner.offload_parameters != "none":
        zero["offload_param"] = {"device": learner.offload_parameters}
    settings: dict[str, Any] = {
        # Micro-batches and their scaling are the learner's own: to DeepSpeed each is one sample.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": learner.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own AdamW for host memory needs a compiler; torch's fused one does without.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        # The sum over micro-batches would lose small terms in bfloat16.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 2**31,
    }
    return laid_over(settings, learner.deepspeed)


def laid_over(ours: Mapping[str, object], options: Mapping[str, object]) -> dict[str, object]:
    """`ours` with `options` over it, section by section: a section keeps the entries that `options` does not name."""
    merged = dict(ours)
    for name, value in options.items():
        mine = merged.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            value = laid_over(mine, value)
        merged[name] = value
    return merged
