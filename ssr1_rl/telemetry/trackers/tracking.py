"""All trackers of one run."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import shown_settings
from ssr1_rl.telemetry.metrics import OnRow
from ssr1_rl.telemetry.trackers.base import Ending, TrackedRun, make_tracker
from ssr1_rl.telemetry.trackers.ids import RunIds
from ssr1_rl.telemetry.trackers.sender import Sender

CLOSE_S = 30.0
"""Longest time that the end of a run waits for what is still to be sent."""


@asynccontextmanager
async def tracking(
    config: Config, continues: bool, note: Callable[[str], None], stops: type[Exception]
) -> AsyncIterator[OnRow]:
    """Gives the function that hands a row to each of the run's trackers and returns at once.

    A tracker starts with its first row, so that a run that fails to start leaves nothing behind.

    On exit it waits until all rows are sent, at most `CLOSE_S`, outside the event loop.

    Args:
        continues: whether metrics that the run's folder holds belong to this run; else the trackers start new runs.
        note: shows a sentence to the user; called from several threads.
        stops: what is raised if the run was stopped to be continued; a cancellation is a stop too.
    """
    names, folder = config.telemetry.trackers, Path(config.run.dir)
    ids = RunIds(folder, continues=continues)
    run = TrackedRun(config.telemetry.tracker_project, config.run.name, folder, shown_settings(config) if names else {})
    senders = [Sender(name, partial(make_tracker, name), run, ids, note) for name in names]

    def log(step: int, metrics: Mapping[str, float]) -> None:
        for sender in senders:
            sender.put(step, metrics)

    ending: Ending = "failed"
    try:
        yield log
        ending = "finished"
    except (stops, asyncio.CancelledError):
        ending = "stopped"
        raise
    finally:
        for sender in senders:
            sender.finish(ending)
        if senders:
            await in_thread(_join, senders)


def _join(senders: list[Sender]) -> None:
    deadline = time.monotonic() + CLOSE_S
    for sender in senders:
        sender.join(max(0.0, deadline - time.monotonic()))
