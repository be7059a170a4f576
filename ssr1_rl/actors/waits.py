"""What the run waits for now: every wait for an actor has a name and a start, and one for a result has a limit."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ray.exceptions import RayActorError

from ssr1_rl.actors.roster import Roster
from ssr1_rl.errors import Explained, PeerLost, Unanswered, original

R = TypeVar("R")

GRACE_S = 5.0
"""After a first error, longest wait for a better one. If a process dies, those that exchange data with it often fail
before Ray notices the death: then the death is the cause, and their errors are not."""


class WaitedTooLong(Unanswered):
    """An actor did not answer within its limit; the message names the actor, its work and the setting."""


@dataclass(frozen=True)
class _Wait:
    who: str
    what: str
    since: float
    roles: tuple[str, ...]


class Waits:
    """All waits that are open now, of every component of a run. Used from one event loop.

    Attributes:
        actors: the run's actors, for errors that name one.
    """

    def __init__(self) -> None:
        self._open: dict[int, _Wait] = {}
        self.actors = Roster()

    @contextlib.contextmanager
    def of(self, who: str, what: str, roles: Iterable[str] = ()) -> Iterator[None]:
        """Records, while the context is open, that the run waits for `who`, which does `what`.

        `roles` are the actors that `who` stands for, if it is not one itself.
        """
        wait = _Wait(who, what, time.monotonic(), tuple(roles))
        self._open[id(wait)] = wait
        try:
            yield
        finally:
            del self._open[id(wait)]

    async def result(self, who: str, what: str, call: Awaitable[R], timeout_s: float, setting: str, fix: str = "") -> R:
        """Waits for one call. Whatever the call raises is raised as it is, its own TimeoutError too.

        Args:
            who, what: such as "rollout worker 0" and "loading the policy".
            setting: name of the setting that holds `timeout_s`.
            fix: what to do about it. Empty: raise the setting, or read the actors' logs.

        Raises:
            WaitedTooLong: no result within `timeout_s`.
        """
        task = asyncio.ensure_future(call)
        with self.of(who, what), _cancelled_at_the_end([task]):
            # Not `asyncio.timeout`: its TimeoutError could not be told from one that the call raises.
            done, _ = await asyncio.wait([task], timeout=timeout_s)
        if not done:
            raise _too_long(who, what, timeout_s, setting, fix)
        return task.result()

    async def answers(
        self,
        who: str,
        what: str,
        calls: Mapping[str, Awaitable[R]],
        timeout_s: float,
        setting: str,
        fix: str = "",
    ) -> list[R]:
        """Waits for calls of several actors, by the actors' roles; returns their results in the order of `calls`.

        The first error ends the wait. If it may be the consequence of another actor's death, as torch's errors of a
        lost connection, the wait goes on for up to `GRACE_S`, and the death is raised instead. An actor's own error
        gets a note that says who raised it.

        Raises:
            ActorLost: an actor died.
            WaitedTooLong: no result within `timeout_s`; the message names the actors that have not answered.
        """
        roles: dict[asyncio.Future[R], str] = {asyncio.ensure_future(call): role for role, call in calls.items()}
        with self.of(who, what, calls), _cancelled_at_the_end(roles):
            done, late = await asyncio.wait(roles, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
            failed = [task for task in done if task.exception()]
            if failed and late and all(map(_may_follow_from_a_death, failed)):
                failed += await self._failed_soon(late)
        silent = [role for task, role in roles.items() if not task.done() or task.cancelled()]
        if failed:
            cause = min(failed, key=_rank)
            raise self._explained(cause.exception(), roles[cause], what, silent)  # type: ignore[arg-type]
        if late:
            raise _too_long(who, what, timeout_s, setting, fix, silent)
        return [task.result() for task in roles]

    async def _failed_soon(self, late: set[asyncio.Future[R]]) -> list[asyncio.Future[R]]:
        """Those of `late` that fail within `GRACE_S`, until one of them is an actor's death."""
        end, failed = time.monotonic() + GRACE_S, []
        while late and (left := end - time.monotonic()) > 0 and not any(map(_is_a_death, failed)):
            done, late = await asyncio.wait(late, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            failed += [task for task in done if task.exception()]
        return failed

    async def first_lost(self, staying: Mapping[str, Awaitable[R]]) -> Exception:
        """Waits for the first of `staying`, calls that never return, to fail; the error, as `answers` would raise it.

        It is not shown as a wait, because the run does not wait for it.
        """
        roles = {asyncio.ensure_future(call): role for role, call in staying.items()}
        with _cancelled_at_the_end(roles):
            done, _ = await asyncio.wait(roles, return_when=asyncio.FIRST_COMPLETED)
            task = done.pop()
            role = roles[task]
            doing = [w.what for w in self._open.values() if role == w.who or role in w.roles] or ["idle"]
            what = doing[0] + (f", and {len(doing) - 1} more" if len(doing) > 1 else "")
            error = task.exception()
            assert error is not None, f"{role} returned from a call that never returns"
            return self._explained(error, role, what, [])

    def _explained(self, error: BaseException, role: str, what: str, silent: list[str]) -> Exception:
        if isinstance(error, RayActorError):
            lost = self.actors.lost(error, role, what)
            lost.__cause__ = error
            return lost
        cause = original(error)
        member = self.actors.find(error) or role
        if isinstance(cause, PeerLost):
            by_then = f"; no answer by then from {_some(silent)}" if silent else ""
            told = Unanswered(f"{member}: {what}: {cause}{by_then}")
            told.__cause__, told.silent = error, tuple(silent)
            return told
        error.add_note(f"raised in {member}: {what}")
        assert isinstance(error, Exception), "what an actor raises is an Exception; a cancellation ends the wait itself"
        return error

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


@contextlib.contextmanager
def _cancelled_at_the_end(tasks: "Iterable[asyncio.Future[R]]") -> Iterator[None]:
    """Leaves no call awaited, whether the wait ended by a result, an error, its limit or a cancellation."""
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            # Retrieves the exception, so that asyncio does not report that of a call that nobody awaits any more.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


def _too_long(
    who: str, what: str, timeout_s: float, setting: str, fix: str, silent: Sequence[str] = ()
) -> WaitedTooLong:
    answer = f"; no answer from {_some(silent)}" if list(silent) not in ([], [who]) else ""
    error = WaitedTooLong(
        f"{who}: {what} took longer than {setting}={timeout_s:g} s{answer}; "
        + (fix or "raise it if that is too short here, or see in the actors' logs what holds them up")
    )
    error.silent = tuple(silent)
    return error


def _is_a_death(task: "asyncio.Future[R]") -> bool:
    return isinstance(task.exception(), RayActorError)


def _may_follow_from_a_death(task: "asyncio.Future[R]") -> bool:
    error = original(task.exception() or Exception())
    if isinstance(error, Explained):
        return isinstance(error, PeerLost)
    return isinstance(error, RuntimeError | OSError) and not _is_a_death(task)


def _rank(task: "asyncio.Future[R]") -> int:
    """0 for the best explanation of a failure."""
    if _is_a_death(task):
        return 0
    return 2 if isinstance(original(task.exception() or Exception()), PeerLost) else 1


def _some(roles: Sequence[str], most: int = 4) -> str:
    return ", ".join(roles[:most]) + (f" and {len(roles) - most} more" if len(roles) > most else "")
