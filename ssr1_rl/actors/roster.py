"""Which actor an error is about: the role, process and node of each actor, and the death of one as a sentence.

Ray's own text about a dead actor is a page that names a class, an id and a list of possible causes.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import ray
from ray.exceptions import ActorUnavailableError, OutOfMemoryError, RayActorError

from ssr1_rl.actors.handle import Actor, T
from ssr1_rl.errors import RunError, Unanswered


class ActorLost(RunError):
    """The process of an actor ended, or cannot be reached; the message says which, where and what it did."""


@dataclass(frozen=True)
class Process:
    """The process of an actor, as it describes itself."""

    pid: int
    node: str  # IP address
    node_id: str
    logs: tuple[str, ...]  # files of its standard error and output, on its node


@dataclass
class Member:
    """One actor of a run. `process` is None until the actor has started."""

    role: str
    process: Process | None = None

    def __str__(self) -> str:
        where = f" (pid {self.process.pid} on node {self.process.node})" if self.process else ""
        return f"{self.role}{where}"


class Roster:
    """The actors of a run, by Ray's ids."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}

    def add(self, role: str, actor: Actor[T]) -> None:
        """Enters an actor, such as "learner rank 0", and asks it for its process without waiting for the answer."""
        member = self._members[actor.id] = Member(role)

        def learn(answer: "Future[Process]") -> None:
            if not answer.cancelled() and answer.exception() is None:
                member.process = answer.result()

        actor.run(_own_process).future().add_done_callback(learn)  # type: ignore[attr-defined]

    def find(self, error: BaseException) -> Member | None:
        """The actor that an error, or the errors behind it, came from; None if it came from none."""
        for one in chain(error):
            if (actor_id := _actor_id(one)) in self._members:
                return self._members[actor_id]
        return None

    def behind(self, error: BaseException) -> list[Member]:
        """Every actor that an error is about: the one it came from, and those that did not answer."""
        members = [member] if (member := self.find(error)) else []
        for one in chain(error):
            if isinstance(one, Unanswered):
                members += [m for m in self._members.values() if m.role in one.silent and m not in members]
        return members

    def lost(self, error: RayActorError, role: str, what: str) -> ActorLost:
        """The sentence about an actor that died or cannot be reached; `what` it was doing, such as "updating"."""
        who = self._members.get(error.actor_id or "") or Member(role)
        return ActorLost(f"{who} {how_it_was_lost(error)}. It was {what}. The run stops")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error, then the error that it was raised from, and so on."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = one.__cause__ or one.__context__


def how_it_was_lost(error: BaseException) -> str:
    """How an actor ended, in words that follow its name, from the text of Ray's error."""
    text = " ".join(str(error).split())
    if isinstance(error, ActorUnavailableError):
        return "cannot be reached (a network failure, or its node is overloaded)"
    if getattr(error, "_preempted", False):
        return "was lost with its node, which was preempted"
    if "node has died" in text or "node was terminated" in text or "NODE_DIED" in text:
        return "was lost with its node, which died or left the cluster"
    if isinstance(error, OutOfMemoryError) or "running low on memory" in text or "memory monitor" in text:
        return "was killed by Ray because its node ran out of memory"
    if "ray.kill" in text:
        return "was killed through Ray (ray.kill)"
    if "creation task" in text:
        return "failed in its constructor"
    if "runtime_env" in text or "RUNTIME_ENV" in text:
        return "could not be started, because its runtime_env could not be set up"
    if "exit code" in text and (code := re.search(r"exit code[ =:]*(-?\d+)", text)):
        return f"ended with exit code {code[1]}"
    return (
        "died without an error of its own (it was killed: by kill -9, by the kernel because memory ran out, which "
        "`dmesg` on its node shows, or by a crash in native code)"
    )


def _actor_id(error: BaseException) -> str:
    if isinstance(error, RayActorError):
        return error.actor_id or ""
    if not type(error).__module__.startswith("ray.") and not type(error).__name__.startswith("RayTaskError"):
        return ""
    found = re.search(r"actor_id[=:]\s*([0-9a-f]+)", str(error))
    return found[1] if found else ""


def _own_process(actor: object) -> Process:
    """Describes the process that runs this. Ray points file descriptors 2 and 1 at log files."""
    logs = []
    for descriptor in (2, 1):
        with contextlib.suppress(OSError):
            logs.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return Process(os.getpid(), ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id(), tuple(logs))
