"""The first error of what runs beside a piece of work ends the work, and is raised."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import NoReturn, TypeVar

R = TypeVar("R")


class FirstError:
    """Watches coroutines that return never and raise an error when something is lost; `watching` makes one."""

    def __init__(self, watched: list["asyncio.Task[NoReturn]"]) -> None:
        self._watched = watched

    async def during(self, work: Coroutine[object, None, R]) -> R:
        """The result of `work`. An error of what is watched cancels it, and is raised at once."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, *self._watched], return_when=asyncio.FIRST_COMPLETED)
            for watched in self._watched:
                if watched.done():
                    watched.result()
            return task.result()
        finally:
            await _ended(task)


@contextlib.asynccontextmanager
async def watching(*coroutines: Coroutine[object, None, NoReturn]) -> AsyncIterator[FirstError]:
    """Runs the coroutines for as long as the context is open."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield FirstError(tasks)
    finally:
        for task in tasks:
            await _ended(task)


async def _ended(task: "asyncio.Task[R]") -> None:
    """Cancels a task and waits for its end; its error, if it has one, was raised or does not matter any more."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
