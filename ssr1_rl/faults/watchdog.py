"""Reports what a run waits for when it has made no progress for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Watchdog:
    """An asyncio task that warns when `beat` has not been called for `stall_warning_s`.

    The time between two warnings doubles until the next beat. The task shares the event loop of what it watches, so it
    cannot warn while that loop itself is blocked.

    Args:
        describe_waiting: returns one sentence for each thing that is awaited now.
        warn: receives the warning, one or more lines of text.
        clock, sleep: replaced in tests; both count seconds.
    """

    def __init__(
        self,
        stall_warning_s: float,
        describe_waiting: Callable[[], list[str]],
        warn: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._stall_warning_s = stall_warning_s
        self._describe_waiting = describe_waiting
        self._warn = warn
        self._clock = clock
        self._sleep = sleep
        self._last_beat_s = clock()

    def beat(self) -> None:
        """Marks progress: a group was finished, a validation question answered, or a step done."""
        self._last_beat_s = self._clock()

    async def __aenter__(self) -> Watchdog:
        self.beat()
        self._task = asyncio.create_task(self._watch(), name="watchdog")
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _watch(self) -> None:
        beat_s, interval_s, due_s = self._last_beat_s, self._stall_warning_s, self._last_beat_s + self._stall_warning_s
        while True:
            # Never longer than stall_warning_s: a beat during a longer sleep makes the next warning due earlier.
            await self._sleep(min(due_s - self._clock(), self._stall_warning_s))
            if self._last_beat_s != beat_s:
                beat_s, interval_s = self._last_beat_s, self._stall_warning_s
                due_s = beat_s + interval_s
            now_s = self._clock()
            if now_s >= due_s:
                self._warn(self._message(now_s - beat_s))
                interval_s *= 2
                due_s = now_s + interval_s

    def _message(self, stalled_s: float) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - stalled_s))
        sentences = self._describe_waiting() or ["nothing that the run knows of"]
        head = f"no progress for {stalled_s:.0f} s (since {since}); waiting for"
        return "\n".join([head, *(f"  {sentence}" for sentence in sentences)])
