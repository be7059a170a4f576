"""Runs functions side by side, each in a process of its own with its own environment."""

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any


@dataclass(frozen=True)
class Job:
    """A call in a new process, started with these environment variables besides the own ones."""

    work: Callable[..., Any]
    args: tuple[Any, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def run_together(jobs: Sequence[Job]) -> list[Any]:
    """The jobs' results; the first failure ends all of them."""
    context = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    processes = []
    try:
        for job in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_run, args=(theirs, job.work, job.args))
            with _environment(job.environment):
                process.start()
            theirs.close()
            ends.append(ours)
            processes.append(process)
        results: dict[int, Any] = {}
        while len(results) < len(jobs):
            for end in wait([end for index, end in enumerate(ends) if index not in results]):
                index = ends.index(end)  # pyright: ignore[reportArgumentType]
                try:
                    error, results[index] = ends[index].recv()
                except EOFError:
                    processes[index].join()
                    error = f"its process ended with exit code {processes[index].exitcode}"
                if error:
                    raise RuntimeError(f"{jobs[index].work.__name__} (process {index}): {error}")
        return [results[index] for index in range(len(jobs))]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(end: Connection, work: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        end.send(("", work(*args)))
    except BaseException:
        end.send((traceback.format_exc(), None))
        raise


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """New processes inherit the environment of the moment."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
