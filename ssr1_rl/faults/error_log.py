"""error.log in the folder of a run: for each error that ended the run, all that its sentence leaves out."""

import contextlib
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ssr1_rl.actors.roster import Member, Roster
from ssr1_rl.errors import IN_THE_LOG, UserError, original

NAME = "error.log"
TAIL_BYTES = 64 * 2**10
TAIL_LINES = 100
MAX_ACTORS = 4
"""Most actors whose logs are copied for one error."""
REMOTE_S = 10.0
"""Longest wait for a log of another node."""


class ErrorLog:
    """Writes error.log. An error is written once, and gets a note that says where it was written.

    Args:
        describe: says where the run is, such as "12 of 72 steps done, weight sync".
        what_next: says what the user can do after an error that is not about settings, files or data.
    """

    def __init__(
        self, run_dir: Path, actors: Roster, describe: Callable[[], str], what_next: Callable[[], str]
    ) -> None:
        self.path = run_dir / NAME
        self._actors, self._describe, self._what_next = actors, describe, what_next
        self._place = ""
        self._ray_messages: deque[str] = deque(maxlen=50)
        self._written: BaseException | None = None

    def ray_says(self, message: str) -> None:
        """Keeps a message of Ray for the next error."""
        self._ray_messages.append(message)

    @contextlib.contextmanager
    def remembers_the_place(self) -> Iterator[None]:
        """Keeps where the run was when an error left the context: the end of the actors comes before `keeps`."""
        try:
            yield
        except Exception:
            self._place = self._describe()
            raise

    @contextlib.contextmanager
    def keeps(self, *apart_from: type[Exception]) -> Iterator[None]:
        """Writes the error that ends the context, but not one of `apart_from`. Use it while Ray is connected."""
        try:
            yield
        except apart_from:
            raise
        except Exception as error:
            if error is not self._written:
                self._written = error
                if not isinstance(original(error), UserError):
                    error.add_note(self._advice())
                error.add_note(self._write(error))
            raise

    def _advice(self) -> str:
        try:
            return self._what_next()
        except Exception as failure:  # the folder may be out of reach, which must not hide the run's error
            return f"whether the same command resumes could not be found out: {failure}"

    def _write(self, error: Exception) -> str:
        try:
            # Only for its owner: paths, prompts and environment variables may occur in it.
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with open(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(self._text(error))
        except OSError as failure:
            return f"{self.path} could not be written: {failure}"
        return f"{IN_THE_LOG}{self.path}"

    def _text(self, error: Exception) -> str:
        members = self._actors.behind(error)[:MAX_ACTORS]
        lines = [
            f"==== {time.strftime('%Y-%m-%d %H:%M:%S %Z')}, {self._place or self._describe()}",
            f"error: {type(error).__name__}: {error}",
            *getattr(error, "__notes__", []),
            *[f"actor: {member}{_node_id(member)}" for member in members],
            *(["actor: none, it was raised in the controller"] if not members else []),
            "---- traceback",
            "".join(traceback.format_exception(error)).rstrip(),
        ]
        if self._ray_messages:
            lines += ["---- messages of Ray", *self._ray_messages]
        for member in members:
            lines += _log_ends(member)
        return "\n".join(lines) + "\n\n"


def _node_id(member: Member) -> str:
    return f", node id {member.process.node_id}" if member.process else ""


def _log_ends(member: Member) -> list[str]:
    if member.process is None:
        return [f"---- no log of {member.role}: it had not started"]
    lines = []
    for path in member.process.logs:
        try:
            text = _tail_on(member.process.node_id, path)
        except Exception as failure:  # the node may be gone; the rest of error.log has to be written
            text = f"(it cannot be read: {type(failure).__name__}: {str(failure).splitlines()[:1]})"
        lines += [f"---- end of {path} of {member}", text or "(empty)"]
    return lines


def _tail_on(node_id: str, path: str) -> str:
    if not ray.is_initialized() or node_id == ray.get_runtime_context().get_node_id():
        return tail(path)
    there = NodeAffinitySchedulingStrategy(node_id, soft=False)
    reference = ray.remote(tail).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(path)
    return ray.get(reference, timeout=REMOTE_S)


def tail(path: str) -> str:
    """The last lines of a text file of this machine."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
