"""`learner.deepspeed`: any DeepSpeed setting, except those that contradict the learner. Does not import DeepSpeed.

Refused are settings that the learner sets itself or that would change its gradients or optimizer (the error says what
to do instead), and names that DeepSpeed does not know (the error gives the nearest known one).
"""

from collections.abc import Mapping

from ssr1_rl.checks.installed import fields_of
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError

# fmt: off
_FIXES = {
    "use grpo.questions_per_step instead": ["train_batch_size"],
    "use learner.max_tokens_per_micro_batch instead": [
        "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "managed_gradient_accumulation",
    ],
    "use learner.max_grad_norm instead": ["gradient_clipping"],
    "use learner.learning_rate and the settings after it instead": ["optimizer"],
    "use learner.lr_schedule and learner.warmup_steps instead": ["scheduler"],
    "use learner.zero_stage instead": ["zero_optimization.stage"],
    "use learner.offload_optimizer instead": [
        "zero_optimization.offload_optimizer.device", "zero_optimization.cpu_offload",
    ],
    "use learner.offload_parameters instead": [
        "zero_optimization.offload_param.device", "zero_optimization.cpu_offload_param",
    ],
    "use model.dtype instead": [
        "amp", "bf16.enabled", "bfloat16", "fp16", "torch_autocast", "data_types.buffer_dtype",
        "data_types.keep_in_fp32_modules", "data_types.param_dtype",
    ],
    "leave it out: masters, moments and sums of gradients are always float32": [
        "bf16.bf16_master_weights_and_grads", "bf16.bf16_optimizer_states", "communication_data_type",
        "data_types.grad_accum_dtype",
    ],
    "leave it out: the learner relies on the float32 mean over its ranks": [
        "gradient_allreduce_op", "gradient_predivide_factor", "prescale_gradients",
        "zero_optimization.zero_quantized_gradients",
    ],
    "leave it out: the optimizer is always torch's AdamW": [
        "zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "zero_optimization.zenflow",
        "zero_optimization.offload_optimizer.ratio", "zero_optimization.offload_optimizer.super_offload",
    ],
    "leave it out: learner ranks are data-parallel, and learner.zero_stage shards the weights": [
        "data_parallel_size", "expert_parallel", "pipeline", "tensor_parallel", "sequence_parallel_size",
        "seq_parallel_communication_data_type",
    ],
    "leave it out: engines receive the weights that the learner computes with, so these are never quantized": [
        "weight_quantization", "zero_optimization.zero_quantized_weights",
        "zero_optimization.zero_quantized_nontrainable_weights",
    ],
    "leave it out: the GRPO loop decides what is trained on and when": [
        "autotuning", "data_efficiency",
    ],
    "leave it out: the learner's model runs as it is": ["compile.deepcompile"],
    "leave it out: responses come from the rollout workers": ["hybrid_engine"],
    "leave it out: learner.max_grad_norm needs the norm": ["zero_optimization.compute_grad_norm"],
}

OWNED = {name: fix for fix, names in _FIXES.items() for name in names}
"""DeepSpeed settings that follow from ours or contradict the learner, and what to do instead of setting them."""

FREE = frozenset({
    "activation_checkpointing", "aio", "bf16", "checkpoint", "comet", "comms_logger", "compile", "csv_monitor",
    "data_types", "dataloader_drop_last", "datastates_ckpt", "disable_allgather", "disable_python_gc",
    "dump_state", "flops_profiler", "log_level", "memory_breakdown", "steps_per_print", "tensorboard", "timers",
    "use_data_before_expert_parallelism", "vocabulary_size", "wall_clock_breakdown", "wandb",
    "zero_optimization",
})
# fmt: on
"""Allowed settings at DeepSpeed's top level (a test compares them with DeepSpeed); `OWNED` excludes entries of some."""


def check_deepspeed_options(learner: LearnerConfig) -> None:
    """Refuses an entry of `learner.deepspeed` that the learner sets itself, or that DeepSpeed does not know.

    Raises:
        ConfigError: with the entry, its value and the fix.
    """
    for name, fix in OWNED.items():
        *sections, last = name.split(".")
        section = _section(learner.deepspeed, sections)
        if last in section:
            raise ConfigError(f"learner.deepspeed.{name} is set by the learner itself: {fix}, got {section[last]!r}")
    _refuse_unknown(learner.deepspeed, "", FREE)
    if known := zero_options():
        _refuse_unknown(_section(learner.deepspeed, ["zero_optimization"]), "zero_optimization.", known)


def zero_options() -> frozenset[str]:
    """What DeepSpeed reads in section `zero_optimization`; empty without DeepSpeed."""
    return fields_of("deepspeed", "runtime/zero/config.py", "DeepSpeedZeroConfig")


def _section(options: Mapping[str, object], path: list[str]) -> Mapping[str, object]:
    for depth, name in enumerate(path, start=1):
        inner = options.get(name, {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"learner.deepspeed.{'.'.join(path[:depth])} must hold settings, got {inner!r}")
        options = inner
    return options


def _refuse_unknown(section: Mapping[str, object], prefix: str, known: frozenset[str]) -> None:
    owned = {name.removeprefix(prefix) for name in OWNED if name.startswith(prefix)}
    for name in section:
        if name not in known:
            near = nearest(name, sorted(known | owned))
            fix = f"did you mean {near}?" if near else f"known: {', '.join(sorted(known - owned))}"
            if near in owned:
                fix = f"{near} is set by the learner itself: {OWNED[prefix + near]}"
            raise ConfigError(f"learner.deepspeed.{prefix}{name} is not a setting of DeepSpeed: {fix}")
