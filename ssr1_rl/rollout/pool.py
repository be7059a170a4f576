"""Sends each group to the rollout worker with the least outstanding work."""

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ssr1_rl.actors.handle import Actor, by_reference
from ssr1_rl.actors.waits import Waits
from ssr1_rl.rollout.engine import Sampling, group_seed
from ssr1_rl.rollout.worker import RolloutWorker
from ssr1_rl.types import GroupId, PreparedQuestion, RolloutGroup


@dataclass
class _Load:
    """The outstanding work of one worker."""

    worker: Actor[RolloutWorker]
    index: int
    num_groups: int = 0
    tokens: int = 0
    busy_s: float = 0.0
    busy_since: float = 0.0


class RolloutPool:
    """Routes groups to workers. Work is counted in tokens: the prompt plus responses of the greatest length."""

    def __init__(self, workers: Sequence[Actor[RolloutWorker]], generate_timeout_s: float, waits: Waits) -> None:
        self._loads = [_Load(worker, index) for index, worker in enumerate(workers)]
        self._timeout_s, self._waits = generate_timeout_s, waits
        self._numbers = itertools.count()

    @property
    def num_workers(self) -> int:
        """Number of rollout workers."""
        return len(self._loads)

    async def generate(
        self, group_id: GroupId, prepared: PreparedQuestion, sampling: Sampling, worker: int | None = None
    ) -> RolloutGroup:
        """Generates one group on worker number `worker`, or on the least loaded one.

        Raises:
            WaitedTooLong: no answer within `rollout.generate_timeout_s`.
            ActorLost: the worker died.
        """
        loads = self._loads if worker is None else [self._loads[worker]]
        load = min(loads, key=lambda load: (load.tokens, load.index))
        request_id = f"{next(self._numbers)}-{group_id.question_id}"
        num_prompt_tokens = len(prepared.token_ids) + sum(prepared.num_audio_tokens)
        sampling = replace(sampling, seed=group_seed(sampling.seed, group_id))
        clips = [by_reference(clip.waveform) for clip in prepared.waveforms]
        with self._outstanding(load, num_prompt_tokens + sampling.num_completions * sampling.max_response_tokens):
            role = f"rollout worker {load.index}"
            [(completions, version)] = await self._waits.answers(
                role,
                f"generating {group_id}",
                {role: load.worker.call(RolloutWorker.generate, request_id, prepared.token_ids, sampling, *clips)},
                self._timeout_s,
                "rollout.generate_timeout_s",
                fix="raise it or lower rollout.max_response_tokens",
            )
        return RolloutGroup(group_id, prepared.question, completions, version, f"rollout worker {load.index}")

    @contextmanager
    def _outstanding(self, load: _Load, tokens: int) -> Iterator[None]:
        if not load.num_groups:
            load.busy_since = time.monotonic()
        load.num_groups += 1
        load.tokens += tokens
        try:
            yield
        finally:
            load.num_groups -= 1
            load.tokens -= tokens
            if not load.num_groups:
                load.busy_s += time.monotonic() - load.busy_since

    def busy_s(self) -> list[float]:
        """Seconds that each worker has had work so far."""
        now = time.monotonic()
        return [load.busy_s + (now - load.busy_since if load.num_groups else 0.0) for load in self._loads]
