"""Every actor of a run, started together and ended together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from ssr1_rl.cluster import Placement, make_plan, reserve
from ssr1_rl.config.schema import Config, RolloutConfig
from ssr1_rl.faults.guards import check_weights
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import EngineSpec, transfer_backend
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.worker import MAX_CONCURRENCY, RolloutWorkerActor
from ssr1_rl.trainer.learner_group import LearnerGroup
from ssr1_rl.weights.sync_client import RolloutSyncClient


@dataclass
class System:
    """Rollout workers, reward actors and learner ranks, connected for weight sync."""

    config: Config
    workers: list[ActorHandle]
    pool: RolloutPool
    rewards: RewardPool
    learners: LearnerGroup

    async def sync_weights(self, policy_version: int, audit: bool = False) -> None:
        """Brings every engine to the learners' weights as `policy_version`.

        Args:
            audit: compare checksums of every tensor on both sides.

        Raises:
            GuardTripped: the audit found a difference.
            TimeoutError: an engine did not answer within rollout.sync_timeout_s.
        """
        if audit:
            await self._of_workers("starting", [worker.start_weight_audit.remote() for worker in self.workers])
        await self.learners.send_weights(policy_version, self.config.rollout.sync_timeout_s)
        if audit:
            calls = [worker.finish_weight_audit.remote() for worker in self.workers]
            reports = await self._of_workers("finishing", calls)
            check_weights(await self.learners.weight_digests(), [r for worker in reports for r in worker])

    async def _of_workers(self, what: str, calls: list[Any]) -> list[Any]:
        timeout_s = self.config.rollout.sync_timeout_s
        try:
            return await asyncio.wait_for(asyncio.gather(*calls), timeout_s)
        except TimeoutError:
            raise TimeoutError(
                f"the engines were {what} the weight audit (guard.check_weights) for more than "
                f"rollout.sync_timeout_s={timeout_s:g} s; their logs may say why"
            ) from None

    def describe_waiting(self) -> list[str]:
        """What is being waited for, in sentences."""
        return self.pool.describe_waiting() + self.rewards.describe_waiting() + self.learners.describe_waiting()


@contextlib.asynccontextmanager
async def running_system(config: Config, max_clips: int, on_phase: Callable[[str], None]) -> AsyncIterator[System]:
    """Starts every actor, and ends every one of them on the way out, whatever happened.

    Args:
        max_clips: most audio clips in one prompt.
        on_phase: told what is being started.
    """
    on_phase("reserving resources")
    placement = reserve(make_plan(config))
    started: list[Any] = []
    try:
        rewards = RewardPool(config.rewards)
        started.append(rewards.shutdown)
        workers = [
            RolloutWorkerActor.options(max_concurrency=MAX_CONCURRENCY, **placement.options("rollout", i)).remote()
            for i in range(config.rollout.num_workers)
        ]
        started.append(lambda: _end_workers(workers))
        on_phase("starting engines and learners, loading the policy")
        learners = await _start_all(config, max_clips, placement, rewards, workers)
        started.append(learners.kill)
        on_phase("connecting engines and learners")
        await _connect(config, workers, learners)
        yield System(config, workers, RolloutPool(workers, config.rollout.generate_timeout_s), rewards, learners)
    finally:
        for end in reversed(started):
            end()
        placement.release()


async def _start_all(
    config: Config, max_clips: int, placement: Placement, rewards: RewardPool, workers: list[ActorHandle]
) -> LearnerGroup:
    """Everything starts side by side; the first failure is raised at once."""
    spec = EngineSpec(
        model_path=config.model.path,
        dtype=config.model.dtype,
        device=config.run.device,
        max_model_len=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
        max_clips=max_clips,
        seed=config.run.seed,
    )
    engines = [worker.start.remote(spec, config.rollout) for worker in workers]
    learners = LearnerGroup.create(config, placement)
    try:
        await asyncio.gather(learners.start(config), rewards.ready(), _all_started(engines, config.rollout))
    except BaseException:
        learners.kill()
        raise
    return learners


async def _all_started(engines: list[Any], config: RolloutConfig) -> None:
    try:
        await asyncio.wait_for(asyncio.gather(*engines), config.start_timeout_s)
    except TimeoutError:
        raise TimeoutError(
            f"the engines did not start within rollout.start_timeout_s={config.start_timeout_s:g} s"
        ) from None


async def _connect(config: Config, workers: list[ActorHandle], learners: LearnerGroup) -> None:
    rollout = config.rollout
    client = RolloutSyncClient(workers, rollout.tensor_parallel_size, rollout.sync_timeout_s)
    backend = transfer_backend(config.run.device, rollout)
    await learners.connect_rollouts(backend, client, rollout.weight_transfer_port, rollout.sync_timeout_s)


def _end_workers(workers: list[ActorHandle]) -> None:
    """Lets each engine end its own processes, then ends the actors."""
    with contextlib.suppress(RayError):
        ray.get([worker.shutdown.remote() for worker in workers], timeout=10)
    for worker in workers:
        ray.kill(worker)
