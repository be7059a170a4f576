"""SFT in this process, without Ray: for models so small that the start of workers would take longer than the work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ssr1_rl.distill.finetuning.messages import Message
from ssr1_rl.distill.finetuning.rank import SftJob, SftRank
from ssr1_rl.trainer.deepspeed_setup import RankSpec


def train_alone(job: SftJob, on_message: Callable[[Message], None]) -> None:
    """Trains with one rank in this process; raises like `SftRank.run`.

    The process group of this one rank stays, and serves the next call.
    """
    with _environment_kept():
        os.environ["DS_ACCELERATOR"] = job.config.run.device
        with _without_messages():
            import deepspeed  # noqa: F401 (it tries to compile against libraries, and shows what the linker says)
        SftRank(RankSpec(0, 1, "127.0.0.1", _free_port(), job.config.run.device), job, _Direct(on_message)).run()


class _Direct:
    """Calls a function with each message; nobody asks for a stop."""

    def __init__(self, on_message: Callable[[Message], None]) -> None:
        self._on_message = on_message

    def tell(self, message: Message) -> None:
        self._on_message(message)

    def stop_asked(self) -> bool:
        return False


@contextmanager
def _environment_kept() -> Iterator[None]:
    """Restores the environment and torch's number of threads: processes that are started later inherit them."""
    before, num_threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        torch.set_num_threads(num_threads)


@contextmanager
def _without_messages() -> Iterator[None]:
    """Drops what this process and its children write to standard error."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
