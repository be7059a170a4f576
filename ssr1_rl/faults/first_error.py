"""The first error of what runs beside a piece of work is raised, and ends the work unless it has to be finished."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import NoReturn, TypeVar

from ssr1_rl.errors import Unanswered

R = TypeVar("R")


class FirstError:
    """Watches coroutines that return never and raise an error when something is lost; `watching` makes one."""

    def __init__(self, watched: list["asyncio.Task[NoReturn]"]) -> None:
        self._watched = watched

    async def during(self, work: Coroutine[object, None, R]) -> R:
        """The result of `work`. An error of what is watched cancels it, and is raised at once.

        After an error that came before, `work` is not begun.
        """
        if error := self._error():
            work.close()
            raise error
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, *self._watched], return_when=asyncio.FIRST_COMPLETED)
            if error := self._error():
                raise error
            return task.result()
        finally:
            await _ended(task)

    async def finishing(self, work: Coroutine[object, None, R], on_error: Callable[[Exception], None]) -> R:
        """The result of `work`, which is finished whatever happens to what is watched.

        `on_error` is told of an error of what is watched at once; the next `during` raises it. If `work` fails after
        that, the earlier error is raised.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait([task, *self._watched], return_when=asyncio.FIRST_COMPLETED)
            first = self._error()
            if first and not task.done():
                on_error(first)
            try:
                return await task
            except Exception as error:
                if first is None:
                    raise
                raise first from error
        finally:
            await _ended(task)

    def _error(self) -> Exception | None:
        """The first error of what is watched, None as long as there is none."""
        for watched in self._watched:
            if watched.done() and isinstance(error := watched.exception(), Exception):
                return error
        return None


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


def learners_answer(error: Exception) -> bool:
    """False for an error that names a learner among those that did not answer: a save would wait for it in vain."""
    return not (isinstance(error, Unanswered) and any(role.startswith("learner") for role in error.silent))
