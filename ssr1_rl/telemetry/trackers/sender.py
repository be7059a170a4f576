"""Sends rows to one tracker from a thread of its own; failures are said once, retried and counted."""

import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from ssr1_rl.telemetry.trackers.base import Ending, TrackedRun, Tracker
from ssr1_rl.telemetry.trackers.ids import RunIds

MAX_WAITING_ROWS = 10_000
RETRIES_AFTER_S = (5.0, 15.0, 60.0, 300.0, 300.0)
"""Waits before the retries of one row. A row that fails after the last of them is left out."""


class Sender:
    """One tracker, the rows that wait for it, and its thread.

    The thread is a daemon: a tracker that hangs does not keep the process.

    Args:
        make: makes the tracker; called in the thread, because it imports the tracker's package.
        note: shows a sentence to the user; called from the thread.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Tracker],
        run: TrackedRun,
        ids: RunIds,
        note: Callable[[str], None],
        retries_after_s: Sequence[float] = RETRIES_AFTER_S,
    ) -> None:
        self._name, self._make, self._run, self._ids, self._note = name, make, run, ids, note
        self._retries_after_s = retries_after_s
        self._rows: deque[tuple[int, Mapping[str, float]]] = deque()
        self._changed = threading.Condition()
        self._ending: Ending | None = None  # None: the run goes on
        self._num_lost = 0
        self._has_failed = self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a row to those that wait. If too many wait, the oldest one is left out."""
        with self._changed:
            if len(self._rows) >= MAX_WAITING_ROWS:
                self._rows.popleft()
                self._num_lost += 1
            self._rows.append((step, dict(metrics)))
            self._changed.notify()

    def finish(self, ending: Ending) -> None:
        """Makes the thread send what waits, each row with one try, and end."""
        with self._changed:
            self._ending = ending
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the thread, and says what was not sent."""
        self._thread.join(timeout_s)
        with self._changed:
            lost = [f"{num} rows of metrics were not sent"] if (num := self._num_lost + len(self._rows)) else []
            lost += [] if self._is_closed else ["its run could not be closed"]
        if lost:
            self._note(f"{self._name}: {' and '.join(lost)}; metrics.jsonl has every row")

    def _work(self) -> None:
        # A run that could not be started yet is tried for as long as there is something to send.
        if not self._has_rows():
            self._is_closed = True
            return
        forever = itertools.chain(self._retries_after_s, itertools.repeat(self._retries_after_s[-1]))
        if not self._try(self._start, "start its run", forever):
            return
        # By itself: were the start tried again, the tracker would have a second run.
        keep_id = partial(self._ids.set, self._name, self._run_id)
        self._try(keep_id, "have its id kept in run.dir", self._retries_after_s)
        while (row := self._next()) is not None:
            if not self._try(lambda row=row: self._tracker.log(*row), "take a row of metrics", self._retries_after_s):
                with self._changed:
                    self._num_lost += 1
        self._is_closed = self._try(lambda: self._tracker.finish(self._ending or "failed"), "close its run", ())

    def _has_rows(self) -> bool:
        """Waits for the first row; false if the run ends without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._ending is not None)
            return bool(self._rows)

    def _start(self) -> None:
        self._tracker = self._make()
        self._run_id = self._tracker.start(self._run, self._ids.get(self._name))

    def _next(self) -> tuple[int, Mapping[str, float]] | None:
        """The oldest row, which is waited for; None at the end of the run."""
        with self._changed:
            self._changed.wait_for(lambda: self._rows or self._ending is not None)
            return self._rows.popleft() if self._rows else None

    def _try(self, action: Callable[[], None], what: str, retries_after_s: Iterable[float]) -> bool:
        """Calls `action`, again after each of the waits; false if it fails to the end, or until the end of the run."""
        waits = iter(retries_after_s)
        while True:
            try:
                action()
                return True
            except Exception as error:  # a tracker's package may raise anything, and the run goes on
                self._say(what, error)
            wait_s = next(waits, None)
            if wait_s is None or self._ended_within(wait_s):
                return False

    def _ended_within(self, wait_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._ending is not None, wait_s)

    def _say(self, what: str, error: Exception) -> None:
        """Says the first failure; later ones are only counted."""
        if not self._has_failed:
            self._has_failed = True
            cause = " ".join(str(error).split())[:300] or type(error).__name__
            cause = re.sub(r"//[^/@\s]+@", "//…@", cause)  # a password in an address
            self._note(f"{self._name} could not {what} ({cause}); the run goes on, and this is tried again")
