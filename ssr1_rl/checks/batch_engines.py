"""`engine_args` of engines that answer rows: any argument of vLLM's engine, except those that the system sets."""

from ssr1_rl.checks.engine_options import vllm_engine_args
from ssr1_rl.config.sections.engines import EnginesConfig
from ssr1_rl.config.values import nearest
from ssr1_rl.errors import ConfigError

_NUMBER = "leave it out: {section}.engines.num_engines is the number of engines"
_SAMPLING = "leave it out: every sampling field is set with each request"

OWNED = {
    "data_parallel_size": _NUMBER,
    "dtype": "use {section}.dtype instead",
    "generation_config": _SAMPLING,
    "gpu_memory_utilization": "use {section}.engines.gpu_memory_utilization instead",
    "logprobs_mode": _SAMPLING,
    "max_model_len": "use the settings of prompts and {section}.max_response_tokens instead",
    "max_num_seqs": "use {section}.engines.max_num_seqs instead",
    "model": "name the model in {section} instead",
    "override_generation_config": _SAMPLING,
    "pipeline_parallel_size": _NUMBER,
    "seed": "use run.seed instead",
    "skip_tokenizer_init": "leave it out: responses are decoded from their tokens",
    "tensor_parallel_size": "use {section}.engines.tensor_parallel_size instead",
}
"""Engine arguments that follow from our settings, and what to do instead of setting them."""


def check_batch_engines(engines: EnginesConfig, section: str, device: str) -> None:
    """Refuses engine arguments that cannot be set.

    Args:
        engines: the settings `section`.engines.
        section: the section of the stage, such as evaluation.
        device: run.device.

    Raises:
        ConfigError: with the argument and the fix.
    """
    known = vllm_engine_args()
    for name, value in engines.engine_args.items():
        setting = f"{section}.engines.engine_args.{name}"
        if name in OWNED:
            fix = OWNED[name].format(section=section)
            raise ConfigError(f"{setting} is set by the system itself: {fix}, got {value!r}")
        if known and name not in known:
            near = nearest(name, known)
            fix = f"did you mean {near}?" if near else "`vllm serve --help` lists them"
            raise ConfigError(f"{setting} is not an engine argument of vLLM: {fix}")
    if device == "cpu" and engines.engine_args.get("enable_chunked_prefill"):
        raise ConfigError(
            f"{section}.engines.engine_args.enable_chunked_prefill=true does not work on CPUs, where vLLM then cannot "
            "give each response a seed of its own; leave it out"
        )
