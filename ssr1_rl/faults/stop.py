"""A run that is asked to stop finishes its step, saves and ends; asked by a signal, or by `run.max_time_s`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeVar

R = TypeVar("R")


class StopRequest:
    """What the loop asks after each step: whether to end there.

    Args:
        max_time_s: seconds from now after which a stop is asked for. 0: never.
        clock: replaced in tests; counts seconds.

    Attributes:
        heeded: whether the loop runs. Before that, SIGINT ends the run at once.
        is_over: whether the loop has ended, and the run is ending its actors.
        by_signal: whether a signal asked.
    """

    def __init__(self, max_time_s: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_time_s, self._clock, self._started_s = max_time_s, clock, clock()
        self._signalled = asyncio.Event()
        self.heeded = self.is_over = False

    @contextlib.contextmanager
    def heeding(self) -> Iterator[None]:
        """The loop runs in this context."""
        self.heeded = True
        try:
            yield
        finally:
            self.heeded, self.is_over = False, True

    def ask(self) -> None:
        """Asks for a stop, because of a signal."""
        self._signalled.set()

    @property
    def by_signal(self) -> bool:
        return self._signalled.is_set()

    @property
    def asked(self) -> bool:
        """Whether the loop should end after the step that it is in."""
        is_late = self._max_time_s > 0 and self._clock() - self._started_s >= self._max_time_s
        return self.by_signal or is_late

    async def unless_signalled(self, work: Coroutine[object, None, R]) -> R | None:
        """The result of `work`; None if a signal comes first, and then `work` is cancelled."""
        task, signal = asyncio.ensure_future(work), asyncio.ensure_future(self._signalled.wait())
        try:
            await asyncio.wait({task, signal}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            signal.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
