"""The actors of one reward function, as the controller calls them: retries, limits, and which actor is free."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable
from typing import TypeVar

from ray import ObjectRef
from ray.exceptions import RayError, RuntimeEnvSetupError

from ssr1_rl.actors.handle import Actor, by_reference
from ssr1_rl.actors.waits import WaitedTooLong, Waits
from ssr1_rl.config.environment import plain, without_values
from ssr1_rl.errors import ConfigError
from ssr1_rl.faults.budget import FailedGroup, RewardFailure
from ssr1_rl.rewards.actor import RewardActor, TryFailed, timed_out
from ssr1_rl.rewards.load import RewardSource, reward_name
from ssr1_rl.types import RolloutGroup

MAX_ASYNC_GROUPS_PER_ACTOR = 32
"""Groups that one actor of an async reward function scores at once; a synchronous function scores one."""
START_TIMEOUT_S = 900.0
"""Longest wait for an actor to start; longer than Ray's own 600 s for setting up a runtime_env."""
ASYNC_GRACE_S = 1.0
"""The actor cancels an async call at timeout_s. If it does not answer within this further time, its loop is stuck."""
FIRST_RETRY_PAUSE_S = 0.1
"""Pause before the second try; each further pause is four times longer, because a busy service is a common cause."""

R = TypeVar("R")


class _RewardWorker:
    """One actor, and how many groups it scores now."""

    def __init__(self, source: RewardSource) -> None:
        config = source.config
        # Ray does not restart it: the group replaces a lost actor itself, and so knows that it was lost.
        options = {"num_cpus": config.num_cpus, "max_restarts": 0}
        if config.runtime_env:
            options["runtime_env"] = plain(config.runtime_env)
        try:
            self.actor = Actor.create(RewardActor, options, source)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{source.field}.runtime_env {config.runtime_env!r} is refused by Ray: "
                f"{without_values(str(error), config.runtime_env)}"
            ) from error
        self.loading: concurrent.futures.Future[bool | TryFailed] = self.actor.call(RewardActor.load).future()
        self.num_busy = 0


class ActorGroup:
    """The actors of one reward function, `rewards[].num_actors` of them."""

    def __init__(self, source: RewardSource, waits: Waits) -> None:
        self.name = reward_name(source.config)
        self._who, self._waits = f"reward function {self.name!r}", waits
        self._source, self._config = source, source.config
        self._workers = [_RewardWorker(source) for _ in range(self._config.num_actors)]
        self._slots_per_actor = 1  # until an actor reports that its function is async
        self._free_slots = asyncio.Semaphore(self._config.num_actors)
        self._is_closed = False
        setup = f" and a runtime_env of {', '.join(self._config.runtime_env)}" if self._config.runtime_env else ""
        self._starting = f"waiting for an actor to start and load it (it needs {self._config.num_cpus:g} CPUs{setup})"

    async def ready(self) -> None:
        for worker in self._workers:
            try:
                await self._loaded(worker, self._starting)
            except RayError as error:
                raise RewardFailure(self._cannot_start(_shortened(error))) from error

    async def score(self, group: RolloutGroup, group_ref: ObjectRef[RolloutGroup]) -> tuple[float, ...] | FailedGroup:
        question = group.question
        num_tries = self._config.max_retries + 1
        error = ""
        for attempt in range(num_tries):
            if attempt:
                await asyncio.sleep(FIRST_RETRY_PAUSE_S * 4 ** (attempt - 1))
            outcome = await self._try(group_ref, f"question {question.id!r} (try {attempt + 1} of {num_tries})")
            if not isinstance(outcome, TryFailed):
                return outcome
            error = outcome.error
        return FailedGroup(group.id, self.name, question.id, question.source, error, num_tries)

    async def _try(self, group_ref: ObjectRef[RolloutGroup], what: str) -> tuple[float, ...] | TryFailed:
        """Makes one try on the least busy actor; replaces an actor that may be stuck or dead."""
        with self._waits.of(self._who, f"{what}: waiting for one of {self._config.num_actors} actors to be free"):
            await self._free_slots.acquire()
        worker = self._least_busy()
        worker.num_busy += 1
        try:
            await self._loaded(worker, f"{what}: {self._starting}")
            scoring = worker.actor.call(RewardActor.score, by_reference(group_ref)).future()
            timeout_s = self._config.timeout_s + (ASYNC_GRACE_S if self._slots_per_actor > 1 else 0.0)
            doing = f"{what}: scoring, limit {self._config.timeout_s:g} s,"
            return await self._waits.result(self._who, doing, _shared(scoring), timeout_s, "timeout_s")
        except WaitedTooLong:
            self._replace(worker)
            return timed_out(self._config)
        except RayError as error:
            self._replace(worker)
            return TryFailed(f"its actor was lost: {_shortened(error)}")
        except asyncio.CancelledError:
            self._replace(worker)  # it may still score a group that nobody waits for
            raise
        finally:
            worker.num_busy -= 1
            self._free_slots.release()

    async def _loaded(self, worker: _RewardWorker, what: str) -> None:
        loading = _shared(worker.loading)
        try:
            outcome = await self._waits.result(self._who, what, loading, START_TIMEOUT_S, "START_TIMEOUT_S")
        except WaitedTooLong as error:
            raise RewardFailure(self._cannot_start(f"no answer within {START_TIMEOUT_S:g} s")) from error
        except RuntimeEnvSetupError as error:
            raise RewardFailure(self._cannot_start(_shortened(error))) from error
        if isinstance(outcome, TryFailed):
            raise RewardFailure(f"reward function {self.name!r} could not be loaded in its actor: {outcome.error}")
        if outcome and self._slots_per_actor == 1:
            self._slots_per_actor = MAX_ASYNC_GROUPS_PER_ACTOR
            for _ in range((MAX_ASYNC_GROUPS_PER_ACTOR - 1) * self._config.num_actors):
                self._free_slots.release()

    def _least_busy(self) -> _RewardWorker:
        """The free actor with the fewest groups; one that has started is preferred."""
        free = [worker for worker in self._workers if worker.num_busy < self._slots_per_actor]
        return min(free, key=lambda worker: (not worker.loading.done(), worker.num_busy))

    def _replace(self, worker: _RewardWorker) -> None:
        # Several groups may be lost with one actor: the first of them replaces it.
        if worker in self._workers and not self._is_closed:
            worker.actor.kill()
            self._workers[self._workers.index(worker)] = _RewardWorker(self._source)

    def shutdown(self) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.actor.kill()

    def _cannot_start(self, error: str) -> str:
        return (
            f"an actor of reward function {self.name!r} could not start: {error}; check that the cluster has "
            f"{self._config.num_cpus:g} CPUs free for each of its {self._config.num_actors} actors "
            f"({self._source.field}.num_cpus, .num_actors) and that {self._source.field}.runtime_env can be set up"
        )


def _shared(future: concurrent.futures.Future[R]) -> Awaitable[R]:
    """The future's result; cancelling the wait does not cancel the future, which others may await too."""
    wrapped = asyncio.wrap_future(future)
    # Retrieves the exception, so that asyncio does not report the error of an actor that was killed in the meantime.
    wrapped.add_done_callback(lambda done: done.cancelled() or done.exception())
    return asyncio.shield(wrapped)


def _shortened(error: BaseException) -> str:
    """Keeps the beginning of a long error of Ray, which says what happened, and its end, the innermost cause."""
    words = " ".join(str(error).split())
    return words if len(words) <= 800 else f"{words[:400]} … {words[-400:]}"
