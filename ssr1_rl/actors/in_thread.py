"""Runs what blocks outside of the event loop, so that the run can be stopped meanwhile."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """The result of `function`, which runs in a thread of its own.

    If the wait is cancelled, the thread is left behind and does not keep the process from ending. So `function` may
    be stopped anywhere: it only reads, or a later start copes with what it leaves. (`asyncio.to_thread` would make
    Ctrl-C wait until the checksums of a whole checkpoint are done.)
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def tell(result: R | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as caught:  # passed on to the waiter, whatever it is
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=getattr(function, "__name__", "in_thread"), daemon=True).start()
    return await future
