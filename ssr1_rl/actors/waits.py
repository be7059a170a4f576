"""What the run waits for now: every wait for an actor has a name and a start, and one for a result has a limit."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import TypeVar

R = TypeVar("R")


class WaitedTooLong(TimeoutError):
    """An actor did not answer within its limit; the message names the actor, its work and the setting."""


@dataclass(frozen=True)
class _Wait:
    who: str
    what: str
    since: float


class Waits:
    """All waits that are open now, of every component of a run. Used from one event loop."""

    def __init__(self) -> None:
        self._open: dict[int, _Wait] = {}

    @contextlib.contextmanager
    def of(self, who: str, what: str) -> Iterator[None]:
        """Records, while the context is open, that the run waits for `who`, which does `what`."""
        wait = _Wait(who, what, time.monotonic())
        self._open[id(wait)] = wait
        try:
            yield
        finally:
            del self._open[id(wait)]

    async def result(self, who: str, what: str, call: Awaitable[R], timeout_s: float, setting: str, fix: str = "") -> R:
        """Waits for `call`, or for several in `asyncio.gather`: then the first failure is raised at once.

        Args:
            who, what: such as "rollout worker 0" and "loading the policy".
            setting: name of the setting that holds `timeout_s`.
            fix: what to do about it. Empty: raise the setting, or read the actors' logs.

        Raises:
            WaitedTooLong: no result within `timeout_s`. A TimeoutError of the call itself is raised as it is.
        """
        limit = asyncio.timeout(timeout_s)
        try:
            with self.of(who, what):
                async with limit:
                    return await call
        except TimeoutError:
            if not limit.expired():
                raise
            raise WaitedTooLong(
                f"{who}: {what} took longer than {setting}={timeout_s:g} s; "
                + (fix or "raise it if that is too short here, or see in the actors' logs what holds them up")
            ) from None

    def describe(self) -> list[str]:
        """One sentence for each actor or group of actors that is waited for, the longest wait first."""
        by_who: dict[str, list[_Wait]] = {}
        for wait in sorted(self._open.values(), key=lambda wait: wait.since):
            by_who.setdefault(wait.who, []).append(wait)
        now = time.monotonic()
        return [
            f"{who}: {waits[0].what} for {now - waits[0].since:.0f} s"
            + (f", and {len(waits) - 1} more" if len(waits) > 1 else "")
            for who, waits in by_who.items()
        ]
