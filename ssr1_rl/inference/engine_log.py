"""Finds in a process's own log why an engine did not start.

vLLM starts its engine in a process of its own. If that fails, the error that the caller gets says no more than "see
root cause above", and the cause is in the log of the actor's process, which the engine's processes write to as well.
"""

from __future__ import annotations

import os
import re

TAIL_BYTES = 256 * 2**10
_ERROR = re.compile(r"(?:^|[\s)])((?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception)\b: .+)$")


def log_size() -> int:
    """Size of this process's log; 0 if standard error is not a file."""
    try:
        return os.fstat(2).st_size
    except OSError:
        return 0


def log_since(position: int) -> str:
    """What this process and its children have written to standard error since; empty if it is not a file."""
    try:
        with open("/proc/self/fd/2", "rb") as file:
            file.seek(max(position, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def first_cause(log: str, error: str) -> str:
    """The error that began a failed start, in one line.

    Args:
        log: what the engine's processes wrote. Each of them ends with the traceback of its own error, the inner
            processes first.
        error: what the start raised.
    """
    if "root cause" not in error and "See the trace" not in error:
        return " ".join(error.split())
    for line in log.splitlines():
        found = _ERROR.search(line)
        if found and "root cause" not in line:
            return found[1].strip()
    return " ".join(error.split())
