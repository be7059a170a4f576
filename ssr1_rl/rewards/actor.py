"""The Ray edge of a reward function: the actor that runs the user's code, and only that."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from dataclasses import dataclass

from ssr1_rl.config.environment import without_values
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.rewards.base import InvalidRewards, RewardFn, check_rewards, is_async
from ssr1_rl.rewards.load import RewardSource, build_reward_fn
from ssr1_rl.types import RolloutGroup

MAX_ERROR_CHARS = 2000


@dataclass(frozen=True)
class TryFailed:
    """Why one try gave no rewards. A value, not an exception, because a user's exception may not survive pickling."""

    error: str


class RewardActor:
    """Runs one reward function and checks what it returns or raises."""

    def __init__(self, source: RewardSource) -> None:
        self._source = source

    async def load(self) -> bool | TryFailed:
        """Loads the user's code; returns whether its function is async."""
        try:
            self._reward_fn = await asyncio.to_thread(build_reward_fn, self._source)
        except ConfigError as error:
            return TryFailed(str(error)[:MAX_ERROR_CHARS])
        self._is_async = is_async(self._reward_fn)
        return self._is_async

    async def score(self, group: RolloutGroup) -> tuple[float, ...] | TryFailed:
        """Returns one finite float per completion, or the reason why there are none.

        An async function is cancelled at its limit. A synchronous one runs in a thread, which Python
        cannot cancel: the controller kills this actor instead.
        """
        call = asyncio.ensure_future(self._call(group))
        timeout_s = self._source.config.timeout_s if self._is_async else None
        done, _ = await asyncio.wait({call}, timeout=timeout_s)
        if not done:
            call.cancel()
            return timed_out(self._source.config)
        return call.result()

    async def _call(self, group: RolloutGroup) -> tuple[float, ...] | TryFailed:
        try:
            if self._is_async:
                values = self._reward_fn(group.question, group.completions)
            else:
                values = await asyncio.to_thread(_call_in_thread, self._reward_fn, group)
            if inspect.isawaitable(values):
                values = await values
            return check_rewards(values, len(group.completions))
        # The edge to the user's code: even sys.exit or a cancellation in that code must not end the actor.
        except (Exception, SystemExit, asyncio.CancelledError) as error:
            return TryFailed(_describe(error, self._source))


def _call_in_thread(reward_fn: RewardFn, group: RolloutGroup) -> object:
    try:
        return reward_fn(group.question, group.completions)
    except StopIteration as error:  # asyncio cannot pass it on from a thread: the call would hang
        raise RuntimeError("it raised StopIteration") from error


def timed_out(config: RewardConfig) -> TryFailed:
    """The failure of a try that took longer than `timeout_s`."""
    return TryFailed(f"it gave no rewards within timeout_s ({config.timeout_s:g} s)")


def _describe(error: BaseException, source: RewardSource) -> str:
    """The error and the line that raised it: the last line in the user's file, else the last line of all."""
    if isinstance(error, InvalidRewards):
        return str(error)
    words = "".join(traceback.format_exception_only(error)).strip()
    words = without_values(words, [source.config.options, source.config.runtime_env])[:MAX_ERROR_CHARS]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source.config.path.rpartition(":")[0]]
    place = (own or frames)[-1]
    return f"{words} ({place.filename}, line {place.lineno}, in {place.name})"
