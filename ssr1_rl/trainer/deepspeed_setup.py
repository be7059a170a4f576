"""Starts DeepSpeed: joins the ranks, loads the model in shards, creates the engine with its configuration."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.actors.limits import inner_limit_s
from ssr1_rl.config.environment import plain
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.engine import Engine, LogprobsOf
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.lora import adapters_off
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import Distribution
from ssr1_rl.weights.parameters import trainable_parameters, whole_shape

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class RankSpec:
    """A learner rank's place among the others."""

    rank: int
    world_size: int
    master_address: str
    master_port: int
    device: str  # "cpu" or "cuda"
    local_rank: int = 0  # number of its GPU among those that its process sees


def join_peers(spec: RankSpec, config: LearnerConfig) -> None:
    """Joins the learners' process group, which DeepSpeed configures from environment variables.

    DeepSpeed uses the group that the process has joined already, if there is one.
    """
    os.environ.update(
        RANK=str(spec.rank),
        WORLD_SIZE=str(spec.world_size),
        LOCAL_RANK=str(spec.local_rank),
        MASTER_ADDR=spec.master_address,
        MASTER_PORT=str(spec.master_port),
    )
    # On a GPU they run AdamW, if it is offloaded.
    torch.set_num_threads(config.num_threads or max(1, round(config.num_cpus)))
    if spec.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    if spec.device == "cpu":
        # DeepSpeed would compile a shared-memory all-reduce (30 s, needs a C++ compiler); gloo works without it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if spec.device == "cpu" else "nccl"
    limit = timedelta(seconds=inner_limit_s(config.update_timeout_s))
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False, timeout=limit)


def load_for_zero(model: ModelConfig, learner: LearnerConfig, world_size: int, attention: str) -> "PreTrainedModel":
    """Loads the model. Under ZeRO-3 every rank holds only its shard, even during loading."""
    dtype = getattr(torch, model.dtype)
    if learner.zero_stage < 3:
        return load_model(model.path, dtype, attention)
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # transformers shards what it loads while this object exists.
    sharding = HfDeepSpeedConfig(deepspeed_settings(model, learner) | {"train_batch_size": world_size})
    loaded = load_model(model.path, dtype, attention)
    del sharding
    return loaded


def start_deepspeed(policy: Policy, model: ModelConfig, learner: LearnerConfig) -> Engine:
    """Creates the engine that trains the parameters with `requires_grad`, with torch's AdamW.

    Under ZeRO it skips a step whose gradient is not finite, and reports an infinite norm.
    """
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
    engine = cast(Engine, engine)
    # ZeRO-1 and 2 look for infinities only in half precision, unless told to; ZeRO-3 always looks at the norm.
    if hasattr(engine.optimizer, "check_grad_overflow"):
        engine.optimizer.check_grad_overflow = True
    return engine


def parameter_groups(model: "PreTrainedModel", weight_decay: float) -> list[dict[str, object]]:
    """AdamW's groups: matrices, convolutions, embeddings and adapters decay, but vectors (norms, biases) do not."""
    parameters = trainable_parameters(model).values()
    decaying = [p for p in parameters if len(whole_shape(p)) > 1]
    others = [p for p in parameters if len(whole_shape(p)) <= 1]
    groups = ((decaying, weight_decay), (others, 0.0))
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def load_reference(
    engine: Engine, model: ModelConfig, learner: LearnerConfig, distribution: Distribution, attention: str
) -> LogprobsOf:
    """The frozen reference of the KL term: with LoRA the policy with its adapters switched off, else a second model.

    Under ZeRO-3 a second model is sharded like the policy.
    """
    if model.lora.rank:
        return partial(_run_base, engine)
    loaded = load_for_zero(model, learner, dist.get_world_size(), attention)
    reference = Policy(loaded, distribution, False, attention, learner.prefix_packing, model.float32_head)
    reference.requires_grad_(False)
    reference.eval()
    if learner.zero_stage < 3:
        return reference.to("cpu" if os.environ.get("DS_ACCELERATOR") == "cpu" else "cuda")
    import deepspeed

    reference_engine, *_ = deepspeed.initialize(
        model=reference, config=deepspeed_settings(model, learner), dist_init_required=False
    )
    return cast(Engine, reference_engine)


def _run_base(engine: Engine, batch: MicroBatch) -> tuple[Tensor, Tensor]:
    with adapters_off(engine.module.model):
        return engine(batch)


def deepspeed_settings(model: ModelConfig, learner: LearnerConfig) -> dict[str, object]:
    """DeepSpeed's configuration. `learner.deepspeed` adds to it; `check_deepspeed_options` refuses contradictions."""
    zero: dict[str, object] = {"stage": learner.zero_stage}
    if learner.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": learner.offload_optimizer}
    if learner.offload_parameters != "none":
        zero["offload_param"] = {"device": learner.offload_parameters}
    settings: dict[str, object] = {
        # The learner cuts and scales micro-batches itself; for DeepSpeed each is one sample.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": learner.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own AdamW for host memory needs a C++ compiler; torch's fused AdamW does not.
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": model.dtype == "bfloat16"},
        # A sum over micro-batches in bfloat16 would lose small terms.
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        "steps_per_print": 2**31,
    }
    return laid_over(settings, plain(learner.deepspeed))


def laid_over(ours: Mapping[str, object], options: Mapping[str, object]) -> dict[str, object]:
    """Merges `options` over `ours`, section by section: a section keeps the entries that `options` does not name."""
    merged = dict(ours)
    for name, value in options.items():
        mine = merged.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            value = laid_over(mine, value)
        merged[name] = value
    return merged
