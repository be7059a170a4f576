"""The end of a system, and the death of an actor, with real actors in place of engines and learners."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import ray

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.roster import ActorLost, _own_process
from ssr1_rl.actors.waits import Waits
from ssr1_rl.faults.error_log import ErrorLog
from ssr1_rl.system import _end_workers
from ssr1_rl.trainer.learner_group import by_role

pytestmark = pytest.mark.usefixtures("ray_cluster")


class Fails:
    async def started(self) -> None: ...

    async def shutdown(self) -> None:
        raise RuntimeError("its engine is gone")


class TakesItsTime:
    def __init__(self, done: Path) -> None:
        self._done = done

    async def started(self) -> None: ...

    async def shutdown(self) -> None:
        time.sleep(1)
        self._done.touch()


def test_a_worker_that_fails_to_end_does_not_cut_short_the_others(tmp_path: Path) -> None:
    fails, slow = Actor.create(Fails, {"num_cpus": 0}), Actor.create(TakesItsTime, {"num_cpus": 0}, tmp_path / "done")
    ray.get([fails.call(Fails.started), slow.call(TakesItsTime.started)])
    asyncio.run(_end_workers([fails, slow]))  # type: ignore[list-item]
    assert (tmp_path / "done").exists()


class Rank:
    """In place of a learner rank: works until it is killed."""

    async def work(self) -> None:
        print("about to work", file=sys.stderr, flush=True)
        await asyncio.Event().wait()

    async def process(self) -> int:
        return os.getpid()


async def test_a_killed_actor_is_one_sentence_and_error_log_has_the_rest(tmp_path: Path) -> None:
    waits = Waits()
    ranks = by_role([Actor.create(Rank, {"num_cpus": 0}) for _ in range(2)])
    for role, rank in ranks.items():
        waits.actors.add(role, rank)
    pids = {role: await rank.call(Rank.process) for role, rank in ranks.items()}
    log = ErrorLog(tmp_path, waits.actors, lambda: "2 of 9 steps done, update", lambda: "")

    async def work() -> None:
        calls = {role: rank.call(Rank.work) for role, rank in ranks.items()}
        await waits.answers("learner (2 ranks)", "updating the policy", calls, 60, "learner.update_timeout_s")

    working = asyncio.create_task(work())
    logs = [Path(path) for path in (await ranks["learner rank 1"].run(_own_process)).logs]
    while "about to work" not in "".join(path.read_text() for path in logs):
        await asyncio.sleep(0.05)
    os.kill(pids["learner rank 1"], signal.SIGKILL)
    with pytest.raises(ActorLost) as caught, log.keeps():
        await working
    sentence = str(caught.value)
    node = ray.util.get_node_ip_address()
    assert sentence.startswith(f"learner rank 1 (pid {pids['learner rank 1']} on node {node}) died without an error")
    assert sentence.endswith("It was updating the policy. The run stops")
    assert len(sentence) < 400
    text = log.path.read_text()
    assert "about to work" in text, "the end of its log"
    assert "The actor died unexpectedly" in text, "Ray's page"
    assert "2 of 9 steps done, update" in text
    for rank in ranks.values():
        rank.kill()
