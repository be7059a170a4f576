"""The actors of one reward function, as the controller calls them: retries, limits, and which actor is free."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable
from functools import partial
from typing import TypeVar

from ray import ObjectRef
from ray.exceptions import RayActorError, RayError, RuntimeEnvSetupError

from ssr1_rl.actors.handle import Actor, by_reference
from ssr1_rl.actors.roster import Roster, how_it_was_lost
from ssr1_rl.actors.waits import WaitedTooLong, Waits
from ssr1_rl.config.environment import plain, without_values
from ssr1_rl.errors import ConfigError
from ssr1_rl.faults.budget import FailedGroup, RewardFailure
from ssr1_rl.rewards.actor import AsyncRewardActor, Loaded, RewardActor, TryFailed, timed_out
from ssr1_rl.rewards.base import Rewards
from ssr1_rl.rewards.runtime_env import runtime_env_failed, runtime_env_in_words, setup_timeout_s
from ssr1_rl.rewards.source import RewardSource, reward_name
from ssr1_rl.types import RolloutGroup

MAX_ASYNC_GROUPS_PER_ACTOR = 32
"""Groups that one actor of an async reward function scores at once; a synchronous function scores one."""
START_TIMEOUT_S = 300.0
"""Longest wait for an actor to start, beside the time in which Ray may set up its runtime_env."""
ASYNC_GRACE_S = 2.0
"""The actor cancels an async call at timeout_s; one that does not answer within this further time is stuck."""
FIRST_RETRY_PAUSE_S = 0.1
"""Pause before the second try; each further pause is four times longer, because a busy service is a common cause."""

R = TypeVar("R")


class _RewardWorker:
    """One actor, and how many groups it scores now."""

    def __init__(self, source: RewardSource, is_async: bool, role: str, roster: Roster) -> None:
        self._source, self.role, self._roster = source, role, roster
        self.num_busy = 0
        self.start(is_async)

    def start(self, is_async: bool) -> None:
        """Starts the actor, of the kind for async functions or of that for plain ones."""
        config, self.is_async = self._source.config, is_async
        # Ray does not restart it: the group replaces a lost actor itself, and so knows that it was lost.
        options = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus, "max_restarts": 0}
        if config.runtime_env:
            options["runtime_env"] = plain(config.runtime_env)
        try:
            if is_async:
                many = Actor.create(AsyncRewardActor, options, self._source)
                self._roster.add(self.role, many)
                self._score = partial(many.call, AsyncRewardActor.score)
                loading, self.kill = many.call(AsyncRewardActor.load), many.kill
            else:
                one = Actor.create(RewardActor, options, self._source)
                self._roster.add(self.role, one)
                self._score = partial(one.call, RewardActor.score)
                loading, self.kill = one.call(RewardActor.load), one.kill
        except (ValueError, TypeError) as error:
            if not config.runtime_env:
                raise ConfigError(
                    f"an actor of {self._source.field} is refused by Ray: {error}; it was asked for with "
                    f"num_cpus={config.num_cpus:g}, num_gpus={config.num_gpus:g}"
                ) from error
            raise ConfigError(
                f"{self._source.field}.runtime_env ({', '.join(config.runtime_env)}) is refused by Ray: "
                f"{without_values(str(error), config.runtime_env)}"
            ) from error
        self.loading: concurrent.futures.Future[Loaded | TryFailed] = loading.future()

    def score(self, group: ObjectRef[RolloutGroup]) -> concurrent.futures.Future[Rewards | TryFailed]:
        return self._score(by_reference(group)).future()


class ActorGroup:
    """The actors of one reward function, `rewards[].num_actors` of them."""

    def __init__(self, source: RewardSource, waits: Waits) -> None:
        self.name = reward_name(source.config)
        self._who, self._waits = f"reward function {self.name!r}", waits
        self._source, self._config = source, source.config
        self._is_async = source.is_async
        self._workers = [self._new_worker(index) for index in range(self._config.num_actors)]
        self._slots_per_actor = 1  # until an actor reports that its function is async
        self._free_slots = asyncio.Semaphore(self._config.num_actors)
        self._is_closed = False
        self._start_timeout_s = START_TIMEOUT_S + setup_timeout_s(self._config)
        gpus = f" and {self._config.num_gpus:g} GPUs" if self._config.num_gpus else ""
        self._needs = f"{self._config.num_cpus:g} CPUs{gpus}"
        self._starting = f"waiting for an actor to start and load it (it needs {self._needs})"
        if self._config.runtime_env:
            self._starting = f"{runtime_env_in_words(self._config)}, then {self._starting}"

    def _new_worker(self, index: int) -> _RewardWorker:
        return _RewardWorker(self._source, self._is_async, f"{self._who}, actor {index}", self._waits.actors)

    async def ready(self) -> None:
        for worker in self._workers:
            try:
                await self._loaded(worker, self._starting)
            except RayError as error:
                raise RewardFailure(self._cannot_start(_shortened(error))) from error

    async def score(self, group: RolloutGroup, group_ref: ObjectRef[RolloutGroup]) -> Rewards | FailedGroup:
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

    async def _try(self, group_ref: ObjectRef[RolloutGroup], what: str) -> Rewards | TryFailed:
        """Makes one try on the least busy actor; replaces an actor that may be stuck or dead."""
        with self._waits.of(self._who, f"{what}: waiting for one of {self._config.num_actors} actors to be free"):
            await self._free_slots.acquire()
        worker = self._least_busy()
        worker.num_busy += 1
        try:
            await self._loaded(worker, f"{what}: {self._starting}")
            scoring = _shared(worker.score(group_ref))
            timeout_s = self._config.timeout_s + (ASYNC_GRACE_S if self._is_async else 0.0)
            doing = f"{what}: scoring, limit {self._config.timeout_s:g} s,"
            outcome = await self._waits.result(self._who, doing, scoring, timeout_s, "timeout_s")
            if isinstance(outcome, TryFailed) and outcome.is_stuck:
                self._replace(worker)
            return outcome
        except WaitedTooLong:
            self._replace(worker)
            return timed_out(self._config)
        except RayError as error:
            self._replace(worker)
            how = f"it {how_it_was_lost(error)}" if isinstance(error, RayActorError) else _shortened(error)
            return TryFailed(f"its actor was lost: {how}")
        except asyncio.CancelledError:
            self._replace(worker)  # it may still score a group that nobody waits for
            raise
        finally:
            worker.num_busy -= 1
            self._free_slots.release()

    async def _loaded(self, worker: _RewardWorker, what: str) -> None:
        outcome = await self._load_outcome(worker, what)
        if isinstance(outcome, TryFailed):
            raise RewardFailure(f"reward function {self.name!r} could not be loaded in its actor: {outcome.error}")
        if outcome.is_async and self._slots_per_actor == 1:
            self._is_async, self._slots_per_actor = True, MAX_ASYNC_GROUPS_PER_ACTOR
            for _ in range((MAX_ASYNC_GROUPS_PER_ACTOR - 1) * self._config.num_actors):
                self._free_slots.release()

    async def _load_outcome(self, worker: _RewardWorker, what: str) -> Loaded | TryFailed:
        """Waits until the actor has loaded its function; one of the wrong kind for it is started as the other."""
        while True:
            loading = worker.loading
            try:
                outcome = await self._waits.result(
                    self._who, what, _shared(loading), self._start_timeout_s, "START_TIMEOUT_S"
                )
            except WaitedTooLong as error:
                error.silent = (worker.role,)  # error.log then has the end of its log
                raise RewardFailure(self._cannot_start(f"no answer within {self._start_timeout_s:g} s")) from error
            except RuntimeEnvSetupError as error:
                raise RewardFailure(runtime_env_failed(self._source, error)) from error
            if isinstance(outcome, TryFailed) or outcome.is_async == worker.is_async:
                return outcome
            self._is_async = outcome.is_async
            # Several groups may wait for the same actor: the first of them starts it anew.
            if loading is worker.loading and not self._is_closed:
                worker.kill()
                worker.start(outcome.is_async)

    def _least_busy(self) -> _RewardWorker:
        """The free actor with the fewest groups; one that has started is preferred."""
        free = [worker for worker in self._workers if worker.num_busy < self._slots_per_actor]
        return min(free, key=lambda worker: (not worker.loading.done(), worker.num_busy))

    def _replace(self, worker: _RewardWorker) -> None:
        # Several groups may be lost with one actor: the first of them replaces it.
        if worker in self._workers and not self._is_closed:
            worker.kill()
            index = self._workers.index(worker)
            self._workers[index] = self._new_worker(index)

    def shutdown(self) -> None:
        self._is_closed = True
        for worker in self._workers:
            worker.kill()

    def _cannot_start(self, error: str) -> str:
        return (
            f"an actor of reward function {self.name!r} could not start: {error}; check that the cluster has "
            f"{self._needs} free for each of its {self._config.num_actors} actors "
            f"({self._source.field}.num_cpus, .num_gpus, .num_actors)"
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
