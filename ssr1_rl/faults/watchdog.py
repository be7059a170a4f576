"""Says what a run waits for when nothing has moved for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Watchdog:
    """An asyncio task that warns when `beat` has not been called for `stall_warning_s`.

    It warns after that time, again after twice as long, four times as long and so on; a beat
    starts anew. It runs on the event loop of what it watches, so it is silent while that loop
    itself is blocked.

    Args:
        stall_warning_s: seconds without a beat before the first warning.
        describe_waiting: one sentence for each thing that is awaited now.
        warn: takes the warning, one or more lines of text.
        clock: monotonic seconds.
        sleep: waits so many seconds of `clock`.
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
        self._task: asyncio.Task[None] | None = None

    def beat(self) -> None:
        """Marks progress: a group came back, a step ended, an engine started."""
        self._last_beat_s = self._clock()

    def start(self) -> None:
        """Starts watching, on the running event loop."""
        assert self._task is None, "the watchdog runs already"
        self.beat()
        self._task = asyncio.create_task(self._watch(), name="watchdog")

    async def stop(self) -> None:
        """Ends watching."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def __aenter__(self) -> Watchdog:
        self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    async def _watch(self) -> None:
        beat_s, interval_s, due_s = self._last_beat_s, self._stall_warning_s, self._last_beat_s + self._stall_warning_s
        while True:
            # Never longer than stall_warning_s: a beat in a long sleep brings the next warning forward.
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
        sentences = self._describe_waiting() or ["nothing that is known to the run"]
        head = f"nothing has moved for {stalled_s:.0f} s (since {since}); waiting for"
        return "\n".join([head, *(f"  {sentence}" for sentence in sentences)])
