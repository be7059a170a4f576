"""`rollout.engine_args`: any argument of vLLM's engine, save those that the system sets. Imports no vLLM."""

import ast
import functools
import importlib.util
from pathlib import Path

from ssr1_rl.config.schema import ConfigError, RolloutConfig
from ssr1_rl.config.values import nearest

_ONE_PROCESS_GROUP = (
    "leave it out: an engine spans rollout.tensor_parallel_size GPUs, and rollout.num_workers are engines"
)
_SAMPLING = "leave it out: every sampling field is set by the rollout workers"
_SYNC = "leave it out: it belongs to the weight sync"
_WHOLE_MODEL = "use model.path instead (a folder that holds the revision)"

OWNED = {
    "data_parallel_size": _ONE_PROCESS_GROUP,
    "dtype": "use model.dtype instead",
    "enable_lora": "leave it out: engines are sent merged weights",
    "generation_config": _SAMPLING,
    "gpu_memory_utilization": "use rollout.gpu_memory_utilization instead",
    "logprobs_mode": "leave it out: the loss needs log-probs of the distribution that was sampled from",
    "max_model_len": "use data.max_prompt_tokens and rollout.max_response_tokens instead",
    "max_num_seqs": "use rollout.max_num_seqs instead",
    "model": "use model.path instead",
    "override_generation_config": _SAMPLING,
    "pipeline_parallel_size": _ONE_PROCESS_GROUP,
    "revision": _WHOLE_MODEL,
    "seed": "use run.seed instead",
    "skip_tokenizer_init": "leave it out: responses are decoded",
    "tensor_parallel_size": "use rollout.tensor_parallel_size instead",
    "tokenizer": _WHOLE_MODEL,
    "tokenizer_revision": _WHOLE_MODEL,
    "weight_transfer_config": "use rollout.weight_transfer instead",
    "worker_extension_cls": _SYNC,
}
"""Engine arguments that follow from our settings, and what to do instead of giving them."""


def refuse_owned(rollout: RolloutConfig) -> None:
    """Raises `ConfigError` for an engine argument that the system sets itself."""
    for name, value in rollout.engine_args.items():
        if name in OWNED:
            raise ConfigError(f"rollout.engine_args.{name} is set by the system itself: {OWNED[name]}, got {value!r}")


def refuse_unknown(rollout: RolloutConfig) -> None:
    """Raises `ConfigError` for an engine argument that the vLLM installed here does not know; needs one to be here."""
    known = vllm_engine_args()
    for name in rollout.engine_args if known else ():
        if name not in known:
            near = nearest(name, known)
            mend = f"did you mean {near}?" if near else "see `vllm serve --help` for those there are"
            raise ConfigError(f"rollout.engine_args.{name} is no engine argument of vLLM: {mend}")


@functools.cache
def vllm_engine_args() -> frozenset[str]:
    """The fields of vLLM's AsyncEngineArgs, read from its source (its import takes seconds); empty without vLLM."""
    spec = importlib.util.find_spec("vllm")
    source = Path(spec.origin).parent / "engine" / "arg_utils.py" if spec and spec.origin else None
    if source is None or not source.is_file():
        return frozenset()
    classes = [
        node
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
    ]
    fields = [field.target for node in classes for field in node.body if isinstance(field, ast.AnnAssign)]
    return frozenset(field.id for field in fields if isinstance(field, ast.Name))
