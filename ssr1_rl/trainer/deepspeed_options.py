"""`learner.deepspeed`: every DeepSpeed setting can be reached, none can contradict the learner. No torch.

Settings that the learner makes itself are refused with the setting to use instead, when the
configuration is loaded. The others are laid over the learner's, section by section.
"""

from collections.abc import Mapping
from typing import Any

from ssr1_rl.config import ConfigError, LearnerConfig

_FLOAT32 = "leave it out: masters, moments and sums of gradients are always float32"
_TORCH_ADAMW = "leave it out: the optimizer is always torch's AdamW"
_DATA_PARALLEL = "leave it out: learner ranks share data, and weights by learner.zero_stage"

OWNED = {
    "train_batch_size": "use grpo.questions_per_step instead",
    "train_micro_batch_size_per_gpu": "use learner.max_tokens_per_micro_batch instead",
    "gradient_accumulation_steps": "use learner.max_tokens_per_micro_batch instead",
    "gradient_clipping": "use learner.max_grad_norm instead",
    "optimizer": "use learner.learning_rate and its neighbours instead",
    "scheduler": "use learner.lr_schedule and learner.warmup_steps instead",
    "bf16.enabled": "use model.dtype instead",
    "bf16.bf16_master_weights_and_grads": _FLOAT32,
    "bf16.bf16_optimizer_states": _FLOAT32,
    "bfloat16": "use model.dtype instead",
    "fp16": "use model.dtype instead",
    "amp": "use model.dtype instead",
    "torch_autocast": "use model.dtype instead",
    "data_types.grad_accum_dtype": _FLOAT32,
    "zero_optimization.stage": "use learner.zero_stage instead",
    "zero_optimization.offload_optimizer.device": "use learner.offload_optimizer instead",
    "zero_optimization.offload_param.device": "use learner.offload_parameters instead",
    "zero_optimization.cpu_offload": "use learner.offload_optimizer instead",
    "zero_optimization.cpu_offload_param": "use learner.offload_parameters instead",
    "zero_optimization.compute_grad_norm": "leave it out: learner.max_grad_norm needs the norm",
    "zero_allow_untested_optimizer": _TORCH_ADAMW,
    "zero_force_ds_cpu_optimizer": _TORCH_ADAMW,
    "tensor_parallel": _DATA_PARALLEL,
    "sequence_parallel_size": _DATA_PARALLEL,
}
"""DeepSpeed settings that follow from ours, and what to do instead of giving them."""


def check_deepspeed_options(learner: LearnerConfig) -> None:
    """Refuses an entry of `learner.deepspeed` that the learner sets itself.

    Raises:
        ConfigError: names the entry, its value and the mend.
    """
    for name, mend in OWNED.items():
        found: Any = learner.deepspeed
        *sections, last = name.split(".")
        for depth, section in enumerate(sections, start=1):
            found = found.get(section, {})
            if not isinstance(found, Mapping):
                path = ".".join(sections[:depth])
                raise ConfigError(f"learner.deepspeed.{path} must hold settings, got {found!r}")
        if last in found:
            raise ConfigError(f"learner.deepspeed.{name} is set by the learner itself: {mend}, got {found[last]!r}")


def laid_over(ours: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`ours` with `options` over it, section by section: a section keeps the entries that `options` does not name."""
    merged = dict(ours)
    for name, value in options.items():
        mine = merged.get(name)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            value = laid_over(mine, value)
        merged[name] = value
    return merged
