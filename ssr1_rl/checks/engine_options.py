"""`rollout.engine_args`: any argument of vLLM's engine, except those that the system sets. Does not import vLLM."""

from collections.abc import Mapping

from ssr1_rl.checks.installed import fields_of
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError

_ONE_PROCESS_GROUP = (
    "leave it out: rollout.num_workers is the number of engines, rollout.tensor_parallel_size the GPUs of each"
)
_SAMPLING = "leave it out: every sampling field is set by the rollout workers"
_SYNC = "leave it out: it belongs to the weight sync"
_WHOLE_MODEL = "use model.path instead (a folder that holds the revision)"

OWNED = {
    "data_parallel_size": _ONE_PROCESS_GROUP,
    "dtype": "use model.dtype instead",
    "enable_lora": "leave it out: engines receive merged weights",
    "generation_config": _SAMPLING,
    "gpu_memory_utilization": "use rollout.gpu_memory_utilization instead",
    "logprobs_mode": "leave it out: the loss needs the log-probs of the distribution that tokens are sampled from",
    "max_model_len": "use data.max_prompt_tokens and rollout.max_response_tokens instead",
    "max_num_seqs": "use rollout.max_num_seqs instead",
    "model": "use model.path instead",
    "override_generation_config": _SAMPLING,
    "pipeline_parallel_size": _ONE_PROCESS_GROUP,
    "revision": _WHOLE_MODEL,
    "seed": "use run.seed instead",
    "skip_tokenizer_init": "leave it out: the engine decodes the responses",
    "tensor_parallel_size": "use rollout.tensor_parallel_size instead",
    "tokenizer": _WHOLE_MODEL,
    "tokenizer_revision": _WHOLE_MODEL,
    "weight_transfer_config": "use rollout.weight_transfer instead",
    "worker_extension_cls": _SYNC,
}
"""Engine arguments that follow from our settings, and what to do instead of setting them."""


def refuse_owned(rollout: RolloutConfig) -> None:
    """Raises `ConfigError` for an engine argument that the system sets itself."""
    for name, value in rollout.engine_args.items():
        if name in OWNED:
            raise ConfigError(f"rollout.engine_args.{name} is set by the system itself: {OWNED[name]}, got {value!r}")
    overrides = rollout.engine_args.get("hf_overrides", {})
    if not isinstance(overrides, Mapping):
        raise ConfigError(
            f"rollout.engine_args.hf_overrides must be a mapping of the model's settings, got {overrides!r}"
        )
    if "head_dtype" in overrides:
        raise ConfigError(
            "rollout.engine_args.hf_overrides.head_dtype is set by the system itself: use model.float32_head, which is "
            f"for engines and learners, got {overrides['head_dtype']!r}"
        )


def refuse_unknown(rollout: RolloutConfig) -> None:
    """Raises `ConfigError` for an engine argument that the installed vLLM does not know; accepts all without vLLM."""
    known = vllm_engine_args()
    for name in rollout.engine_args if known else ():
        if name not in known:
            near = nearest(name, known)
            fix = f"did you mean {near}?" if near else "`vllm serve --help` lists them"
            raise ConfigError(f"rollout.engine_args.{name} is not an engine argument of vLLM: {fix}")


def vllm_engine_args() -> frozenset[str]:
    """The arguments of vLLM's AsyncEngineArgs; empty without vLLM."""
    return fields_of("vllm", "engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
