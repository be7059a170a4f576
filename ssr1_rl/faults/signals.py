"""SIGINT, SIGTERM and `run.max_time_s` end a run after its step, with a checkpoint; a second signal ends it at once."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import TypeVar

from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.errors import Interrupted
from ssr1_rl.faults.stop import StopRequest

R = TypeVar("R")


class TimeIsUp(Interrupted):
    """The run saved and stopped because of `run.max_time_s`; the message says how to resume it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: run it again


def stopped(run: RunConfig, step: int, stop: StopRequest) -> Interrupted:
    """What to raise for a run that was asked to stop and has saved `step`."""
    saved = f"step {step} is saved in {run.dir}/checkpoints" if step else "no step was done"
    again = "run the same command again to continue"
    if stop.by_signal:
        return Interrupted(f"stopped by a signal; {saved}; {again}")
    return TimeIsUp(f"run.max_time_s={run.max_time_s:g} is over; {saved}; {again} (exit code {TimeIsUp.exit_code})")


@contextlib.contextmanager
def sigterm_asks(stop: StopRequest) -> Iterator[None]:
    """Before the loop runs and handles signals itself, SIGTERM asks for a stop too; a second one interrupts."""

    def on_signal(number: int, frame: object) -> None:
        if stop.by_signal:
            raise KeyboardInterrupt
        stop.ask()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def until_signal(run: Coroutine[object, None, R], stop: StopRequest, note: Callable[[str], None]) -> R:
    """Runs to the end. The first SIGINT or SIGTERM asks the loop to end after its step; any other cancels the run.

    During the start SIGTERM asks too, since a batch system that sends it every few minutes must not stop all progress,
    and SIGINT, which a person sends, cancels. Either way every actor is ended. `note` shows a sentence to the user.
    """
    task = asyncio.ensure_future(run)
    loop = asyncio.get_running_loop()

    def on_signal(name: str) -> None:
        if stop.by_signal or (name == "SIGINT" and not stop.heeded and not stop.is_over):
            task.cancel()
            return
        stop.ask()
        if stop.is_over:
            note(f"{name}: the run is ending. A second signal kills what is left of it")
            return
        what = "finishing this step, saving it" if stop.heeded else "starting, making one step, saving it"
        note(
            f"{name}: {what}, then stopping. A second signal stops at once; then the steps since the last checkpoint "
            "are lost"
        )

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number.name)
    return await task
