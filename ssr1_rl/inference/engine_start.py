"""An engine that fails to start tells why."""

from __future__ import annotations

from ray.llm._internal.batch.stages.vllm_engine_stage import vLLMEngineStageUDF

from ssr1_rl.inference.engine_log import first_cause, log_since, log_size


class EngineStart(RuntimeError):
    """An engine could not start; the message is the first cause in the log."""


class Engine(vLLMEngineStageUDF):
    """Ray Data's engine actor, whose start fails with the cause."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        before = log_size()
        try:
            super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        except Exception as error:
            raise EngineStart(first_cause(log_since(before), str(error))) from None
