"""The Ray edge of a reward function: the actors that run the user's code, and only that.

A plain function runs in a `RewardActor`, on the main thread of its process: only there do signals work, and with them
the time limits of math-verify and the like. An async function runs in an `AsyncRewardActor`, which scores many groups
at once.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from ssr1_rl.config.environment import without_values
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.base import InvalidRewards, RewardFn, Rewards, check_rewards, is_async
from ssr1_rl.rewards.binding import bound
from ssr1_rl.rewards.load import find_target
from ssr1_rl.rewards.source import RewardSource
from ssr1_rl.types import RolloutGroup

MAX_ERROR_CHARS = 2000
BEAT_S = 0.5
"""An event loop that does not answer for so long is blocked."""

R = TypeVar("R")


@dataclass(frozen=True)
class Loaded:
    """An actor found its function. If `is_async` is not what the actor is for, it has not built or called anything."""

    is_async: bool


@dataclass(frozen=True)
class TryFailed:
    """Why one try gave no rewards. A value, not an exception, because a user's exception may not survive pickling."""

    error: str
    is_stuck: bool = False  # whether the actor cannot score any more


class RewardActor:
    """Runs one plain reward function on its main thread, group by group, and checks what it returns or raises.

    Nothing limits its time here: the controller kills the actor.
    """

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self._runner = asyncio.Runner()  # one loop for all calls that return an awaitable: a client may belong to it

    def load(self) -> Loaded | TryFailed:
        """Loads the user's code, on the main thread too, where libraries expect to be initialised."""
        outcome = _load(self._source, wants_async=False)
        if not isinstance(outcome, Loaded | TryFailed):
            self._reward_fn = outcome
            return Loaded(is_async=False)
        return outcome

    def score(self, group: RolloutGroup) -> Rewards | TryFailed:
        """Returns one finite float or None per completion, or the reason why there are none."""
        try:
            try:
                values = self._reward_fn(group.question, group.completions)
                if inspect.isawaitable(values):
                    values = self._runner.run(_awaited(values))
                return check_rewards(values, len(group.completions))
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # an alarm that this call has set must not end the next one
        # The edge to the user's code: not even sys.exit in that code may end the actor.
        except BaseException as error:
            return TryFailed(describe_error(error, self._source))


class AsyncRewardActor:
    """Runs one async reward function for many groups at once, in an event loop of its own.

    That loop has its own thread, so this actor still answers if the user's code blocks it, and says where.
    """

    def __init__(self, source: RewardSource) -> None:
        self._source = source
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reward function", daemon=True)
        self._thread.start()

    async def load(self) -> Loaded | TryFailed:
        """Loads the user's code in the loop that will run it."""
        outcome = await asyncio.wrap_future(self._in_loop(self._load()))
        if not isinstance(outcome, Loaded | TryFailed):
            self._reward_fn = outcome
            return Loaded(is_async=True)
        return outcome

    async def _load(self) -> RewardFn | Loaded | TryFailed:
        return _load(self._source, wants_async=True)

    async def score(self, group: RolloutGroup) -> Rewards | TryFailed:
        """Returns one finite float or None per completion, or the reason why there are none; cancelled at its limit."""
        scoring = self._in_loop(self._call(group))
        done, _ = await asyncio.wait({asyncio.wrap_future(scoring)}, timeout=self._source.config.timeout_s)
        if done:
            return done.pop().result()
        scoring.cancel()
        beat = asyncio.wrap_future(self._in_loop(asyncio.sleep(0)))
        done, _ = await asyncio.wait({beat}, timeout=BEAT_S)
        if done:
            return timed_out(self._source.config)
        beat.cancel()
        return TryFailed(
            f"{timed_out(self._source.config).error}, because it blocks its event loop, in which all its groups are "
            f"scored: {self._place()}. Await there instead (asyncio.sleep, an async client, asyncio.to_thread), or "
            "write it as a plain def",
            is_stuck=True,
        )

    def _in_loop(self, work: Coroutine[Any, Any, R]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _call(self, group: RolloutGroup) -> Rewards | TryFailed:
        try:
            values = self._reward_fn(group.question, group.completions)
            if inspect.isawaitable(values):
                values = await values
            return check_rewards(values, len(group.completions))
        # The edge to the user's code: even sys.exit or a cancellation in that code must not end the loop.
        except (Exception, SystemExit, KeyboardInterrupt, asyncio.CancelledError) as error:
            return TryFailed(describe_error(error, self._source))

    def _place(self) -> str:
        """Where the loop's thread is now: the last line in the user's file, else the last line of all."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        place = _own_frame(traceback.extract_stack(frame), self._source)
        return f"{place.filename}, line {place.lineno}, in {place.name}: `{place.line}`"


def _load(source: RewardSource, wants_async: bool) -> RewardFn | Loaded | TryFailed:
    """The function; or, before anything is built, that it is of the other kind; or why it cannot be loaded."""
    try:
        target = find_target(source)
        kind = is_async(target)
        return bound(target, source) if kind == wants_async else Loaded(kind)
    except ConfigError as error:
        return TryFailed(str(error)[:MAX_ERROR_CHARS])


async def _awaited(values: Awaitable[R]) -> R:
    return await values


def timed_out(config: RewardConfig) -> TryFailed:
    """The failure of a try that took longer than `timeout_s`."""
    return TryFailed(f"it gave no rewards within timeout_s ({config.timeout_s:g} s)")


def describe_error(error: BaseException, source: RewardSource) -> str:
    """The error and the line that raised it: the last line in the user's file, else the last line of all."""
    if isinstance(error, InvalidRewards):
        return str(error)
    words = "".join(traceback.format_exception_only(error)).strip()
    words = without_values(words, [source.config.options, source.config.runtime_env])[:MAX_ERROR_CHARS]
    place = _own_frame(traceback.extract_tb(error.__traceback__), source)
    return f"{words} ({place.filename}, line {place.lineno}, in {place.name})"


def _own_frame(frames: traceback.StackSummary, source: RewardSource) -> traceback.FrameSummary:
    own = [frame for frame in frames if frame.filename == source.config.path.rpartition(":")[0]]
    return (own or frames)[-1]
