"""Errors whose messages are written for the user; `ssr1-rl` prints them as sentences.

Any other error is a bug or a failure outside this package: its type is shown and its traceback is kept, as
docs/failures.md says. Errors are raised in actors and reach the controller pickled, so their constructors take one
message, or pass every argument on to `super().__init__`.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

IN_THE_LOG = "the traceback, and the end of the actor's log if one failed, are in "
"""Begins the note (`add_note`) on an error that was written to a run's error.log; the path follows."""


class Explained(Exception):
    """The message says what is wrong, where, and how to fix it."""


class UserError(Explained, ValueError):
    """The user's settings, files or data have to change."""


class RunError(Explained, RuntimeError):
    """The run cannot continue; the message names who failed, where, and what to do."""


class ConfigError(UserError):
    """A setting that the user has to change; the message gives the field, its value and the fix."""


class MissingFile(ConfigError):
    """A file or folder that the settings name does not exist."""


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the command; the message says what is kept and how to resume."""

    exit_code = 130


class Unanswered(RunError):
    """Actors did not answer. `silent` are their roles."""

    silent: tuple[str, ...] = ()


class PeerLost(RunError):
    """A process that this one exchanges data with stopped answering.

    The error of that other process is the cause, if it has one: it is told instead of this one (`Waits.answers`).
    """


@contextlib.contextmanager
def named_by_the_user(option: str, path: Path) -> Iterator[None]:
    """Turns the operating system's error about `path`, or a file in it, into a sentence that names the option."""
    try:
        yield
    except OSError as error:
        if error.filename is None or not Path(os.fsdecode(error.filename)).is_relative_to(path):
            raise  # about another file, which the user did not name
        raise UserError(
            f"{option} {path} cannot be used: {error.strerror} ({os.fsdecode(error.filename)}); give another path, or "
            "mend its permissions or free space"
        ) from error


def original(error: BaseException) -> BaseException:
    """The error that an actor raised, taken out of Ray's wrapping; any other error unchanged."""
    cause = getattr(error, "cause", None) if type(error).__module__.startswith("ray.") else None
    return original(cause) if isinstance(cause, Exception) else error
