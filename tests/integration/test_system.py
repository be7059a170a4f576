"""The end of a system, with real actors in place of engines."""

import asyncio
import time
from pathlib import Path

import pytest
import ray

from ssr1_rl.actors.handle import Actor
from ssr1_rl.system import _end_workers

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
