"""The Ray edge of SFT: Ray Train's workers run `SftRank`, and a small actor carries messages between them and the run.

    the run's process     fits a TorchTrainer in a thread; takes messages from the desk; asks it for a stop
    the desk (an actor)   keeps messages until they are taken; answers rank 0 whether a stop is asked for
    Ray Train's workers   one `SftRank` each; after a death all are started again, and continue from the newest
                          checkpoint, `sft.max_failures` times

A rank's error that another try cannot mend, an `Explained` one, is kept by the desk, and later tries end at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import traceback
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import ray
import ray.train
import ray.train.torch
from ray.exceptions import RayActorError
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.limits import inner_limit_s
from ssr1_rl.actors.roster import how_it_was_lost
from ssr1_rl.cluster import ClusterTooSmall
from ssr1_rl.config.schema import Config
from ssr1_rl.distill.finetuning.messages import Message, Note, Silent
from ssr1_rl.distill.finetuning.rank import SftJob, SftRank
from ssr1_rl.errors import Explained, RunError, original
from ssr1_rl.trainer.deepspeed_setup import RankSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = ".ray_train"
"""Folder of the run for Ray Train's own files; checkpoints are not among them."""


class Desk:
    """Keeps messages of rank 0 until the run takes them. It runs as an actor; its methods do not block."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._stop_asked = False
        self._num_starts = 0
        self._error: tuple[Explained, str] | None = None

    async def start(self) -> int | None:
        """Counts a start of the ranks, called by rank 0; the number of starts before. None: they end at once."""
        self._num_starts += 1
        return None if self._error else self._num_starts - 1

    async def has_failed(self) -> bool:
        """Whether an error that another try cannot mend has ended the run."""
        return self._error is not None

    async def tell(self, message: Message) -> bool:
        """Keeps a message; returns whether the run is to end after its step."""
        self._messages.append(message)
        self._arrived.set()
        return self._stop_asked or self._error is not None

    async def fail(self, error: Explained, trace: str = "") -> None:
        """Keeps the first error of a rank that another try cannot mend, and its traceback."""
        self._error = self._error or (error, trace)

    async def error(self) -> tuple[Explained, str] | None:
        """What `fail` has kept."""
        return self._error

    async def ask_stop(self) -> None:
        """Lets the run end after its step."""
        self._stop_asked = True

    async def take(self, timeout_s: float) -> list[Message]:
        """The messages since the last call; waits up to `timeout_s` for the first one."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrived.wait()
        except TimeoutError:
            return []
        taken = list(self._messages)
        self._messages.clear()
        self._arrived.clear()
        return taken


class DeskOutlet:
    """Rank 0's way to the desk."""

    def __init__(self, desk: Actor[Desk]) -> None:
        self._desk = desk
        self._last: ray.ObjectRef[bool] | None = None

    def tell(self, message: Message) -> None:
        self._last = self._desk.call(Desk.tell, message)

    def stop_asked(self) -> bool:
        # Answered long ago, unless the step was very short.
        return self._last is not None and ray.get(self._last)

    def flush(self) -> None:
        """Waits until every message has arrived."""
        if self._last is not None:
            ray.get(self._last)


@dataclass(frozen=True)
class WorkerArguments:
    """What Ray Train hands to every worker."""

    job: ray.ObjectRef[SftJob]
    desk: Actor[Desk]


class TellFailures(UserCallback):
    """Tells the run why workers failed. Ray Train's controller calls it."""

    def __init__(self, desk: Actor[Desk]) -> None:
        self._desk = desk

    def after_exception(self, run_context: object, worker_exceptions: Mapping[int, Exception]) -> None:
        told = [_told(rank, e) for rank, e in sorted(worker_exceptions.items()) if not _is_explained(e)]
        if told:
            self._desk.call(Desk.tell, Note("; ".join(told)))


def run_worker(arguments: Mapping[str, Any]) -> None:
    """Runs one rank in a worker of Ray Train, which has joined the process group."""
    given = cast(WorkerArguments, arguments["given"])
    context, desk = ray.train.get_context(), given.desk
    if ray.get(desk.call(Desk.has_failed)):
        return
    rank = context.get_world_rank()
    job: SftJob = ray.get(given.job)
    num_starts = (ray.get(desk.call(Desk.start)) or 0) if rank == 0 else 0
    to_desk = DeskOutlet(desk)
    if num_starts:
        to_desk.tell(Note(f"the ranks have started again, {num_starts} of at most {job.config.sft.max_failures} times"))
    spec = RankSpec(
        rank,
        context.get_world_size(),
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        job.config.run.device,
        local_rank=ray.train.torch.get_device().index or 0,
    )
    try:
        SftRank(spec, replace(job, is_restart=num_starts > 0), to_desk if rank == 0 else Silent()).run()
    except Explained as error:
        ray.get(desk.call(Desk.fail, error, f"learner rank {rank}:\n{traceback.format_exc()}"))
        raise
    to_desk.flush()


def check_resources(config: Config) -> None:
    """Compares what the ranks reserve with what the cluster has in all.

    Raises:
        ClusterTooSmall: it has less. Ray would wait for the rest forever.
    """
    there, num = ray.cluster_resources(), config.learner.num_workers
    for name, each in _resources(config).items():
        if num * each > there.get(name, 0.0) + 1e-9:
            later = "; if nodes join later, set run.wait_for_resources_s" if os.environ.get("RAY_ADDRESS") else ""
            fix = "lower learner.num_workers" + (" or learner.num_cpus (a reservation, not threads)" * (name == "CPU"))
            raise ClusterTooSmall(
                f"{num} ranks with {each:g} {name} each need {num * each:g} {name}s, and the cluster has "
                f"{there.get(name, 0.0):g}: {fix}{later}"
            )


def _resources(config: Config) -> dict[str, float]:
    """What one rank reserves."""
    return {"CPU": config.learner.num_cpus} | ({"GPU": 1.0} if config.run.device == "cuda" else {})


def make_trainer(job: SftJob, desk: Actor[Desk]) -> TorchTrainer:
    """Ray Train's trainer of the run."""
    config = job.config
    gpus = config.run.device == "cuda"
    return TorchTrainer(
        run_worker,
        train_loop_config={"given": WorkerArguments(ray.put(job), desk)},
        scaling_config=ScalingConfig(
            num_workers=config.learner.num_workers,
            use_gpu=gpus,
            resources_per_worker=_resources(config),
        ),
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo", timeout_s=max(1, int(inner_limit_s(config.learner.update_timeout_s)))
        ),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=str(Path(config.run.dir).absolute()),
            failure_config=FailureConfig(max_failures=config.sft.max_failures),
            callbacks=[TellFailures(desk)],
        ),
    )


def fit(trainer: TorchTrainer, config: Config) -> None:
    """Runs the trainer to its end.

    Raises:
        RunError: workers died more often than `sft.max_failures`.
    """
    with _quietly_in_this_directory():
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise _explained(error, config) from error


@contextmanager
def _quietly_in_this_directory() -> Iterator[None]:
    """Workers keep the working directory, to which relative paths belong; Ray Train's log goes to its files."""
    logger, name = logging.getLogger("ray.train"), "RAY_CHDIR_TO_TRIAL_DIR"
    level, before = logger.level, os.environ.get(name)
    logger.setLevel(logging.CRITICAL)
    os.environ[name] = "0"
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _explained(error: Exception, config: Config) -> RunError:
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {})
    told = [_told(rank, failure) for rank, failure in sorted(failures.items())]
    return RunError(
        f"SFT failed {config.sft.max_failures + 1} times, more than sft.max_failures={config.sft.max_failures} allows: "
        + ("; ".join(told) or " ".join(str(error).split())[:500])
    )


def _told(rank: int, failure: Exception) -> str:
    if isinstance(failure, RayActorError):
        return f"rank {rank} {how_it_was_lost(failure)}"
    cause = original(failure)
    return f"rank {rank} raised {type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


def _is_explained(failure: Exception) -> bool:
    return isinstance(original(failure), Explained)
