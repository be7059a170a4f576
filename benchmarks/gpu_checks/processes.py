"""Processes that run functions which they are sent, each with an environment of its own."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any
from unittest import mock


class Worker:
    """A new process. `environment`: variables besides those of this process."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,))
        with mock.patch.dict(os.environ, environment or {}):
            self._process.start()
        # Otherwise the end of the process would not close the pipe.
        theirs.close()

    def send(self, work: Callable[..., Any], *args: Any) -> None:
        """Starts `work(*args)` there."""
        self.connection.send((work, args))

    def receive(self) -> Any:
        """Waits for the result of the oldest call; raises RuntimeError with the traceback if it failed."""
        try:
            error, result = self.connection.recv()
        except EOFError:
            self._process.join()
            error, result = f"its process ended with exit code {self._process.exitcode}", None
        if error:
            raise RuntimeError(f"in another process: {error}")
        return result

    def call(self, work: Callable[..., Any], *args: Any) -> Any:
        self.send(work, *args)
        return self.receive()

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def run_together(
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], environments: Sequence[Mapping[str, str]]
) -> list[Any]:
    """Runs calls side by side, each in a new process; the first failure ends all of them."""
    workers = [Worker(environment) for environment in environments]
    try:
        for worker, (work, args) in zip(workers, calls, strict=True):
            worker.send(work, *args)
        results: dict[int, Any] = {}
        while len(results) < len(workers):
            waiting = {worker.connection: index for index, worker in enumerate(workers) if index not in results}
            for connection in wait(list(waiting)):
                index = waiting[connection]  # pyright: ignore[reportArgumentType]
                results[index] = workers[index].receive()
        return [results[index] for index in range(len(workers))]
    finally:
        for worker in workers:
            worker.end()


def _serve(connection: Connection) -> None:
    while True:
        try:
            work, args = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("", work(*args)))
        except BaseException:
            connection.send((traceback.format_exc(), None))
            raise


def free_port() -> int:
    """A TCP port of this machine that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
