"""Every actor of a run: started together, synchronised, ended together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import ray

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.waits import Waits
from ssr1_rl.cluster import actor_options, make_plan, reserve
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.faults.guards import check_weights
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import EngineSpec, distribution_of
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.worker import MAX_CONCURRENCY, RolloutWorker
from ssr1_rl.trainer.learner_group import LearnerGroup
from ssr1_rl.trainer.rank import LearnerRank
from ssr1_rl.weights.transport import Rendezvous, transfer_backend

R = TypeVar("R")


@dataclass
class System:
    """Rollout workers, reward actors and learner ranks, which share one `Waits`, and the weight sync between them."""

    config: RolloutConfig
    workers: list[Actor[RolloutWorker]]
    pool: RolloutPool
    rewards: RewardPool
    learners: LearnerGroup
    waits: Waits

    async def connect(self, device: str) -> None:
        """Forms the weight-transfer group: the learners' rank 0, then the processes of each engine."""
        config = self.config
        address, port = await self.learners.find_port(config.weight_transfer_port, "rollout.weight_transfer_port")
        rendezvous = Rendezvous(
            transfer_backend(device, config.weight_transfer),
            address,
            port,
            world_size=1 + len(self.workers) * config.tensor_parallel_size,
            timeout_s=config.sync_timeout_s,
        )
        update_info = await self.learners.update_info()
        joining = [
            worker.call(
                RolloutWorker.init_weight_transfer,
                rendezvous.of_engine(rank_offset=1 + index * config.tensor_parallel_size),
                update_info,
            )
            for index, worker in enumerate(self.workers)
        ]
        await self._in_sync("joining the weight-transfer group", [*self.learners.join_engines(rendezvous), *joining])

    async def sync_weights(self, policy_version: int, audit: bool = False) -> None:
        """Sends the learners' weights to every engine, as `policy_version`.

        Learners send and engines receive at the same time; the first error of any of them is raised at once. With
        `audit`, checksums of every tensor are compared on both sides.

        Raises:
            GuardTripped: the audit found a difference.
            WaitedTooLong: the sync took longer than rollout.sync_timeout_s.
        """
        if audit:
            starting = [worker.call(RolloutWorker.start_weight_audit) for worker in self.workers]
            await self._in_sync("starting the weight audit (guard.check_weights)", starting)
        receiving = [worker.call(RolloutWorker.apply_weights, policy_version) for worker in self.workers]
        sending = self.learners.send_weights()
        await self._in_sync(f"sending and loading version {policy_version}", [*sending, *receiving])
        if audit:
            finishing = [worker.call(RolloutWorker.finish_weight_audit) for worker in self.workers]
            reports = await self._in_sync("finishing the weight audit (guard.check_weights)", finishing)
            check_weights(await self.learners.weight_digests(), [r for worker in reports for r in worker])

    async def _in_sync(self, what: str, calls: Sequence[Awaitable[R]]) -> list[R]:
        limit = self.config.sync_timeout_s
        return await self.waits.result("weight sync", what, asyncio.gather(*calls), limit, "rollout.sync_timeout_s")


@contextlib.asynccontextmanager
async def running_system(
    config: Config, max_clips: int, waits: Waits, on_phase: Callable[[str], None]
) -> AsyncIterator[System]:
    """Starts every actor, and ends all of them on exit, also after an error.

    `max_clips` is the most audio clips of one prompt; `on_phase` is called with what is being started.
    """
    on_phase("reserving resources")
    placement = reserve(make_plan(config))
    with contextlib.ExitStack() as ending:
        ending.callback(placement.release)
        rewards = RewardPool(config.rewards, waits)
        ending.callback(rewards.shutdown)
        workers = [
            Actor.create(RolloutWorker, {"max_concurrency": MAX_CONCURRENCY, **options})
            for options in actor_options(placement.rollout)
        ]
        ending.callback(_end_workers, workers)
        on_phase("starting engines and learners, loading the policy")
        ranks = [Actor.create(LearnerRank, options) for options in actor_options(placement.learner)]
        learners = LearnerGroup(ranks, config.learner, config.grpo, waits)
        ending.callback(learners.kill)
        # All start side by side; the first failure is raised at once.
        await asyncio.gather(
            learners.start(config.model, config.run.device, distribution_of(config.rollout), config.run.seed),
            rewards.ready(),
            _start_engines(workers, _engine_spec(config, max_clips), config.rollout, waits),
        )
        on_phase("connecting engines and learners")
        pool = RolloutPool(workers, config.rollout.generate_timeout_s, waits)
        system = System(config.rollout, workers, pool, rewards, learners, waits)
        await system.connect(config.run.device)
        yield system


def _engine_spec(config: Config, max_clips: int) -> EngineSpec:
    return EngineSpec(
        model_path=config.model.path,
        dtype=config.model.dtype,
        device=config.run.device,
        max_model_len=config.data.max_prompt_tokens + config.rollout.max_response_tokens,
        max_clips=max_clips,
        seed=config.run.seed,
        float32_head=config.model.float32_head,
    )


async def _start_engines(
    workers: Sequence[Actor[RolloutWorker]], spec: EngineSpec, config: RolloutConfig, waits: Waits
) -> None:
    calls = [worker.call(RolloutWorker.start, spec, config) for worker in workers]
    who = f"rollout ({len(workers)} engines)"
    await waits.result(who, "starting", asyncio.gather(*calls), config.start_timeout_s, "rollout.start_timeout_s")


def _end_workers(workers: Sequence[Actor[RolloutWorker]]) -> None:
    """Ends each engine's processes, then the actors."""
    calls = [worker.call(RolloutWorker.shutdown) for worker in workers]
    ray.wait(calls, num_returns=len(calls), timeout=10)
    for worker in workers:
        worker.kill()
