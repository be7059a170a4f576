"""The Ray edge of a rollout engine: one actor, one vLLM engine."""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.errors import RunError
from ssr1_rl.rollout.engine import EngineBroken, EngineSpec, RolloutEngine, Sampling
from ssr1_rl.types import Completion
from ssr1_rl.weights.audit import AuditReport

MAX_CONCURRENCY = 4096
"""Most calls that one worker runs at once: groups in the engine, and the weight sync."""


class EngineStartError(RunError):
    """A vLLM engine did not start; the message ends with the last lines of its log."""


class RolloutWorker:
    """One engine behind remote calls. Async: groups overlap in the engine, and a sync overlaps with them."""

    async def start(self, spec: EngineSpec, config: RolloutConfig) -> None:
        """Starts the engine, which loads the model; raises `EngineStartError` if vLLM fails."""
        try:
            self._engine = await RolloutEngine.start(spec, config)
        except Exception as error:
            # vLLM's engine fails in a process of its own, and the error here says only that it failed.
            raise EngineStartError(f"vLLM could not start with {spec.model_path}: {error}\n{_own_log_tail()}") from None

    async def generate(
        self, request_id: str, token_ids: Sequence[int], sampling: Sampling, *waveforms: np.ndarray
    ) -> tuple[tuple[Completion, ...], int]:
        """Samples one group. Each waveform is an argument of its own, so that Ray can pass it by reference."""
        with _explains_a_dead_engine():
            return await self._engine.generate(request_id, token_ids, waveforms, sampling)

    async def init_weight_transfer(self, rendezvous: Mapping[str, object], update_info: Mapping[str, object]) -> None:
        with _explains_a_dead_engine():
            await self._engine.init_weight_transfer(rendezvous, update_info)

    async def apply_weights(self, policy_version: int) -> None:
        with _explains_a_dead_engine():
            await self._engine.apply_weights(policy_version)

    async def stay(self) -> None:
        """Never returns, so that its caller learns when this process ends, also while it has no work."""
        await asyncio.Event().wait()

    async def start_weight_audit(self) -> None:
        await self._engine.start_weight_audit()

    async def finish_weight_audit(self) -> list[AuditReport]:
        return await self._engine.finish_weight_audit()

    async def shutdown(self) -> None:
        """Ends the engine's processes."""
        if hasattr(self, "_engine"):
            self._engine.shutdown()


@contextlib.contextmanager
def _explains_a_dead_engine() -> Iterator[None]:
    """On GPUs and with tensor parallelism the engine runs in processes of its own, which may die alone."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "EngineDeadError":  # by name: vLLM is imported only where the engine runs
            raise
        raise EngineBroken(
            "vLLM's engine process, a child of this worker, died; the end of the worker's log, in error.log, says why"
        ) from error


def _own_log_tail(num_lines: int = 40) -> str:
    """The end of this process's error log. Ray points file descriptor 2 at it, and the engine's process shares it."""
    with contextlib.suppress(OSError):
        path = Path(os.readlink("/proc/self/fd/2"))
        lines = path.read_text(errors="replace").splitlines()[-num_lines:]
        return f"--- last lines of {path} ---\n" + "\n".join(lines)
    return "(this actor's error log could not be read)"
