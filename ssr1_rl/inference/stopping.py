"""A stage that is stopped by SIGINT or SIGTERM says what is kept."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from ssr1_rl.errors import Interrupted


@contextlib.contextmanager
def interruptible(what_is_kept: str) -> Iterator[None]:
    """Turns SIGINT and SIGTERM in this context into `Interrupted`; what runs is ended at once, by an exception.

    Ray handles SIGTERM from `ray.init` on: use this after Ray has been connected to.

    Args:
        what_is_kept: ends the message, such as "the answers so far are kept in DIR; the same command resumes".
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _interrupt) if is_main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by a signal; {what_is_kept}") from None
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
