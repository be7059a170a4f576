"""The reward stage: RolloutGroup -> ScoredGroup, or FailedGroup when a reward function fails.

    RewardPool (in the controller)
      └ one _ActorGroup per reward function: retries, time-outs, which actor is free
          └ num_actors × RewardActor (Ray): the user's code, and nothing else, runs here

A group is scored by all functions at once. A try that raises, hangs, loses its actor or
returns anything but one finite number per completion is a failed try; after max_retries
further ones the group is set aside, never given a made-up reward.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError, RuntimeEnvSetupError

from ssr1_rl.config.schema import ConfigError, RewardConfig
from ssr1_rl.faults.budget import FailedGroup, RewardFailure
from ssr1_rl.rewards.base import InvalidRewards, RewardFn, check_rewards, is_async
from ssr1_rl.rewards.load import RewardSource, build_reward_fn, check_reward, reward_name
from ssr1_rl.types import RolloutGroup, ScoredGroup

MAX_ASYNC_GROUPS_PER_ACTOR = 32
"""Groups that one actor of an async reward function has under way at once. A sync function has one."""
START_TIMEOUT_S = 900.0
"""Longest wait for an actor to start; above Ray's own 600 s for setting up a runtime_env."""
ASYNC_GRACE_S = 1.0
"""An async call is cancelled in its actor at timeout_s; so much later its event loop is known to be stuck."""
FIRST_RETRY_PAUSE_S = 0.1
"""Pause before the second try, four times longer before each further one: what fails is often a busy service."""
MAX_ERROR_CHARS = 2000


@dataclass(frozen=True)
class TryFailed:
    """Why one try gave no rewards. A value, not an exception: a user's exception may not survive pickling."""

    error: str


class RewardActor:
    """Holds one reward function and runs it; what it raises or returns never leaves unchecked."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self._reward_fn: RewardFn | None = None
        self._is_async = False

    async def load(self) -> bool | TryFailed:
        """Runs or imports the user's code; whether its function is async."""
        try:
            self._reward_fn = await asyncio.to_thread(build_reward_fn, self._source)
        except ConfigError as error:
            return TryFailed(str(error)[:MAX_ERROR_CHARS])
        self._is_async = is_async(self._reward_fn)
        return self._is_async

    async def score(self, group: RolloutGroup) -> tuple[float, ...] | TryFailed:
        """One finite float per completion, or why there are none.

        A sync function that hangs cannot be stopped here (Python cannot cancel a
        thread): the controller's time-out kills this actor. An async one can.
        """
        call = asyncio.ensure_future(self._call(group))
        timeout_s = self._source.config.timeout_s if self._is_async else None
        done, _ = await asyncio.wait({call}, timeout=timeout_s)
        if not done:
            call.cancel()
            return _timed_out(self._source.config)
        return call.result()

    async def _call(self, group: RolloutGroup) -> tuple[float, ...] | TryFailed:
        assert self._reward_fn is not None, "score was called before load"
        try:
            if self._is_async:
                values = self._reward_fn(group.question, group.completions)
            else:
                values = await asyncio.to_thread(_call_in_thread, self._reward_fn, group)
            if inspect.isawaitable(values):
                values = await values
            return check_rewards(values, len(group.completions))
        # The edge to the user's code: sys.exit or a cancellation of its own must not end the actor either.
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            return TryFailed(_describe(error, self._source))


class RewardPool:
    """All reward functions of a run, as seen by the controller. Used from one event loop.

    Raises:
        ConfigError: a function cannot be found or loaded here, an option is unknown, or two have the same name.
    """

    def __init__(self, configs: Sequence[RewardConfig]) -> None:
        if not configs:
            raise ConfigError("rewards is empty: name at least one reward function, such as [{name: accuracy}]")
        sources = [check_reward(config, f"rewards[{i}]") for i, config in enumerate(configs)]
        self._weights: dict[str, float] = {}
        for source in sources:
            name = reward_name(source.config)
            if name in self._weights:
                raise ConfigError(
                    f"{source.field}.name {name!r} is taken by another reward function; set {source.field}.name"
                )
            self._weights[name] = source.config.weight
        self._actor_groups = [_ActorGroup(source) for source in sources]

    @property
    def names(self) -> tuple[str, ...]:
        """The reward functions' names, in the order of the settings."""
        return tuple(self._weights)

    async def ready(self) -> None:
        """Waits until every actor has loaded its function.

        Raises:
            RewardFailure: one could not; says which function and why.
        """
        await asyncio.gather(*(actor_group.ready() for actor_group in self._actor_groups))

    async def score(self, group: RolloutGroup) -> ScoredGroup | FailedGroup:
        """The group with its rewards, or which function failed on it and how.

        Raises:
            RewardFailure: an actor cannot load its function or cannot start; more tries would not help.
        """
        group_ref = ray.put(group)  # once, for all functions and tries
        outcomes = await asyncio.gather(*(a.score(group, group_ref) for a in self._actor_groups))
        breakdown: dict[str, tuple[float, ...]] = {}
        for name, outcome in zip(self.names, outcomes, strict=True):
            if isinstance(outcome, FailedGroup):
                return outcome
            breakdown[name] = outcome
        rewards_G = tuple(
            sum(weight * breakdown[name][i] for name, weight in self._weights.items())
            for i in range(len(group.completions))
        )
        return ScoredGroup(group, rewards_G, breakdown)

    def describe_waiting(self) -> list[str]:
        """One sentence for each thing that is awaited now, the longest first."""
        waits = [wait for actor_group in self._actor_groups for wait in actor_group.waits.values()]
        now = time.monotonic()
        return [f"{what}, since {now - since:.1f} s" for what, since in sorted(waits, key=lambda wait: wait[1])]

    def shutdown(self) -> None:
        """Ends all actors; the pool cannot be used again."""
        for actor_group in self._actor_groups:
            actor_group.shutdown()


class _Worker:
    """One actor process, as the controller knows it."""

    def __init__(self, source: RewardSource) -> None:
        config = source.config
        remote_class: Any = ray.remote(RewardActor)
        # No restarts by Ray: the pool replaces a lost actor itself, and then knows that it was lost.
        options = {"num_cpus": config.num_cpus, "max_restarts": 0}
        if config.runtime_env:
            options["runtime_env"] = dict(config.runtime_env)
        try:
            self.handle = remote_class.options(**options).remote(source)
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{source.field}.runtime_env {config.runtime_env!r} is refused by Ray: {error}"
            ) from error
        self.loading: concurrent.futures.Future[bool | TryFailed] = self.handle.load.remote().future()
        self.num_busy = 0


class _ActorGroup:
    """The actors of one reward function."""

    def __init__(self, source: RewardSource) -> None:
        self.name = reward_name(source.config)
        self.waits: dict[int, tuple[str, float]] = {}
        self._source = source
        self._config = source.config
        self._workers = [_Worker(source) for _ in range(self._config.num_actors)]
        self._slots_per_actor = 1  # until an actor has loaded the function and says that it is async
        self._free_slots = asyncio.Semaphore(self._config.num_actors)
        self._is_closed = False
        setup = f" and a runtime_env of {', '.join(self._config.runtime_env)}" if self._config.runtime_env else ""
        self._starting = f"waits for an actor to start and load it (it needs {self._config.num_cpus:g} CPUs{setup})"

    async def ready(self) -> None:
        for worker in self._workers:
            with self._waiting(self._starting):
                try:
                    await self._loaded(worker)
                except RayError as error:
                    raise RewardFailure(self._cannot_start(_shortened(error))) from error

    async def score(self, group: RolloutGroup, group_ref: Any) -> tuple[float, ...] | FailedGroup:
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

    async def _try(self, group_ref: Any, what: str) -> tuple[float, ...] | TryFailed:
        """One try on the least busy actor; an actor that may be stuck or dead is replaced."""
        with self._waiting(f"{what} waits for one of {self._config.num_actors} actors to be free"):
            await self._free_slots.acquire()
        worker = self._least_busy()
        worker.num_busy += 1
        try:
            with self._waiting(f"{what} {self._starting}"):
                await self._loaded(worker)
            with self._waiting(f"{what} is being scored, time-out {self._config.timeout_s:g} s"):
                timeout_s = self._config.timeout_s + (ASYNC_GRACE_S if self._slots_per_actor > 1 else 0.0)
                return await _result(worker.handle.score.remote(group_ref).future(), timeout_s)
        except TimeoutError:
            self._replace(worker)
            return _timed_out(self._config)
        except RayError as error:
            self._replace(worker)
            return TryFailed(f"its actor was lost: {_shortened(error)}")
        except asyncio.CancelledError:
            self._replace(worker)  # it may still be at work on what nobody waits for
            raise
        finally:
            worker.num_busy -= 1
            self._free_slots.release()

    async def _loaded(self, worker: _Worker) -> None:
        try:
            outcome = await _result(worker.loading, START_TIMEOUT_S)
        except TimeoutError as error:
            raise RewardFailure(self._cannot_start(f"no answer within {START_TIMEOUT_S:g} s")) from error
        except RuntimeEnvSetupError as error:
            raise RewardFailure(self._cannot_start(_shortened(error))) from error
        if isinstance(outcome, TryFailed):
            raise RewardFailure(f"reward function {self.name!r} could not be loaded in its actor: {outcome.error}")
        if outcome and self._slots_per_actor == 1:
            self._slots_per_actor = MAX_ASYNC_GROUPS_PER_ACTOR
            for _ in range((MAX_ASYNC_GROUPS_PER_ACTOR - 1) * self._config.num_actors):
                self._free_slots.release()

    def _least_busy(self) -> _Worker:
        """The free actor with the fewest groups; one that has started, if there is one."""
        free = [worker for worker in self._workers if worker.num_busy < self._slots_per_actor]
        return min(free, key=lambda worker: (not worker.loading.done(), worker.num_busy))

    def _replace(self, worker: _Worker) -> None:
        # Of several groups on a lost actor only the first replaces it.
        if worker in self._workers and not self._is_closed:
            ray.kill(worker.handle)
            self._workers[self._workers.index(worker)] = _Worker(self._source)

    def shutdown(self) -> None:
        self._is_closed = True
        for worker in self._workers:
            ray.kill(worker.handle)

    def _cannot_start(self, error: str) -> str:
        return (
            f"an actor of reward function {self.name!r} could not start: {error}; see that the cluster has "
            f"{self._config.num_cpus:g} CPUs free for each of its {self._config.num_actors} actors "
            f"({self._source.field}.num_cpus, .num_actors) and that {self._source.field}.runtime_env can be set up"
        )

    @contextlib.contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        key = id(wait := (f"reward function {self.name!r}: {what}", time.monotonic()))
        self.waits[key] = wait
        try:
            yield
        finally:
            del self.waits[key]


def _call_in_thread(reward_fn: RewardFn, group: RolloutGroup) -> Any:
    try:
        return reward_fn(group.question, group.completions)
    except StopIteration as error:  # asyncio cannot carry it out of a thread: the call would hang
        raise RuntimeError("it raised StopIteration") from error


async def _result(future: concurrent.futures.Future, timeout_s: float) -> Any:
    """The future's result; TimeoutError when late. Never cancels it, as others may await it too."""
    wrapped = asyncio.wrap_future(future)
    # Looked at, so that the error of an actor that was killed meanwhile is not logged as never retrieved.
    wrapped.add_done_callback(lambda done: done.cancelled() or done.exception())
    done, _ = await asyncio.wait({wrapped}, timeout=timeout_s)
    if not done:
        raise TimeoutError
    return wrapped.result()


def _timed_out(config: RewardConfig) -> TryFailed:
    return TryFailed(f"it gave no rewards within timeout_s ({config.timeout_s:g} s)")


def _describe(error: BaseException, source: RewardSource) -> str:
    """The error in words, and the line that raised it (the user's own line, if it is in the user's file)."""
    words = "".join(traceback.format_exception_only(error)).strip()[:MAX_ERROR_CHARS]
    if isinstance(error, InvalidRewards):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source.config.path.rpartition(":")[0]]
    place = (own or frames)[-1]
    return f"{words} ({place.filename}, line {place.lineno}, in {place.name})"


def _shortened(error: BaseException) -> str:
    """Ray's errors run to pages: the first words say what happened, the last ones the innermost cause."""
    words = " ".join(str(error).split())
    return words if len(words) <= 800 else f"{words[:400]} … {words[-400:]}"
