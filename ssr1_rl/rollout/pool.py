"""Sends each group to the rollout worker with the least outstanding work."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.actor import ActorHandle

from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.types import GroupId, PreparedQuestion, RolloutGroup


class RolloutTimeout(TimeoutError):
    """A group of responses did not come back in time; the message names worker and question."""


@dataclass
class _Load:
    """What one worker has outstanding."""

    worker: ActorHandle
    index: int
    tokens: int = 0
    busy_s: float = 0.0
    busy_since: float = 0.0
    waiting: dict[str, tuple[GroupId, float]] = field(default_factory=dict)


class RolloutPool:
    """Routes groups to workers; work is counted in tokens, prompt plus the longest responses."""

    def __init__(self, workers: Sequence[ActorHandle], generate_timeout_s: float) -> None:
        self._loads = [_Load(worker, index) for index, worker in enumerate(workers)]
        self._timeout_s = generate_timeout_s
        self._numbers = itertools.count()

    async def generate(self, group_id: GroupId, prepared: PreparedQuestion, sampling: Sampling) -> RolloutGroup:
        """Generates one group on the least loaded worker.

        Raises:
            RolloutTimeout: no answer within `rollout.generate_timeout_s`.
            ray.exceptions.RayActorError: the worker died.
        """
        load = min(self._loads, key=lambda load: (load.tokens, load.index))
        request_id = f"{next(self._numbers)}-{group_id.question_id}"
        num_prompt_tokens = len(prepared.token_ids) + sum(prepared.num_audio_tokens)
        tokens = num_prompt_tokens + sampling.num_completions * sampling.max_response_tokens
        self._begin(load, request_id, group_id, tokens)
        try:
            call: Any = load.worker.generate.remote(request_id, prepared.token_ids, sampling, *prepared.waveforms)
            completions, version = await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError:
            raise RolloutTimeout(
                f"rollout worker {load.index} gave no answer for {group_id} within {self._timeout_s:g} s; "
                "raise rollout.generate_timeout_s or lower rollout.max_response_tokens"
            ) from None
        finally:
            self._end(load, request_id, tokens)
        return RolloutGroup(group_id, prepared.question, completions, version)

    def _begin(self, load: _Load, request_id: str, group_id: GroupId, tokens: int) -> None:
        now = time.monotonic()
        if not load.waiting:
            load.busy_since = now
        load.waiting[request_id] = (group_id, now)
        load.tokens += tokens

    def _end(self, load: _Load, request_id: str, tokens: int) -> None:
        del load.waiting[request_id]
        load.tokens -= tokens
        if not load.waiting:
            load.busy_s += time.monotonic() - load.busy_since

    def busy_s(self) -> list[float]:
        """Seconds that each worker has had work so far."""
        now = time.monotonic()
        return [load.busy_s + (now - load.busy_since if load.waiting else 0.0) for load in self._loads]

    def describe_waiting(self) -> list[str]:
        """One sentence per worker with work: what it has, and since when the oldest waits."""
        sentences = []
        for load in self._loads:
            if load.waiting:
                group_id, since = min(load.waiting.values(), key=lambda waiting: waiting[1])
                sentences.append(
                    f"rollout worker {load.index}: {len(load.waiting)} groups, the oldest "
                    f"({group_id}) for {time.monotonic() - since:.0f} s"
                )
        return sentences
