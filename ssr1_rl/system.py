"""Every actor of a run: started together, synchronised, ended together."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.limits import inner_limit_s
from ssr1_rl.actors.waits import Waits
from ssr1_rl.cluster import actor_options, make_plan, reserve
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.faults.guards import check_weights
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import EngineSpec, distribution_of
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.worker import MAX_CONCURRENCY, RolloutWorker
from ssr1_rl.trainer.learner_group import LearnerGroup, by_role
from ssr1_rl.trainer.rank import LearnerRank
from ssr1_rl.weights.transport import Rendezvous, transfer_backend

R = TypeVar("R")

END_S = 10.0
"""Longest wait for the engines to end by themselves; then they are killed."""


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
            timeout_s=inner_limit_s(config.sync_timeout_s),
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
        joined = {**self.learners.join_engines(rendezvous), **_by_worker(joining)}
        await self._in_sync("joining the weight-transfer group", joined)

    async def sync_weights(self, policy_version: int, audit: bool = False) -> None:
        """Sends the learners' weights to every engine, as `policy_version`.

        Learners send and engines receive at the same time. The first error of any of them ends the sync, but not an
        error that only says that another of them stopped answering; see `Waits.answers`. After an error the learners
        and engines cannot be used again: killing their processes is what ends a broadcast in which others still wait
        (NCCL has no time-out of its own). With `audit`, checksums of every tensor are compared on both sides.

        Raises:
            ActorLost: an engine or a learner died.
            GuardTripped: the audit found a difference.
            WaitedTooLong: the sync took longer than rollout.sync_timeout_s.
        """
        if audit:
            starting = [worker.call(RolloutWorker.start_weight_audit) for worker in self.workers]
            await self._in_sync("starting the weight audit (guard.check_weights)", _by_worker(starting))
        receiving = [worker.call(RolloutWorker.apply_weights, policy_version) for worker in self.workers]
        calls = {**self.learners.send_weights(), **_by_worker(receiving)}
        await self._in_sync(f"sending and loading version {policy_version}", calls)
        if audit:
            finishing = [worker.call(RolloutWorker.finish_weight_audit) for worker in self.workers]
            reports = await self._in_sync("finishing the weight audit (guard.check_weights)", _by_worker(finishing))
            check_weights(await self.learners.weight_digests(), reports)

    async def _in_sync(self, what: str, calls: Mapping[str, Awaitable[R]]) -> list[R]:
        limit = self.config.sync_timeout_s
        return await self.waits.answers("weight sync", what, calls, limit, "rollout.sync_timeout_s")

    async def engine_lost(self) -> NoReturn:
        """Raises `ActorLost` as soon as a rollout worker's process ends, also while it has no work."""
        staying = _by_worker([worker.call(RolloutWorker.stay) for worker in self.workers])
        raise await self.waits.first_lost(staying)


@contextlib.asynccontextmanager
async def running_system(
    config: Config, max_clips: int, waits: Waits, on_phase: Callable[[str], None]
) -> AsyncIterator[System]:
    """Starts every actor, and ends all of them on exit, also after an error.

    `max_clips` is the most audio clips of one prompt; `on_phase` is called with what is being started.
    """
    placement = await reserve(make_plan(config), config.run.wait_for_resources_s, on_phase)
    async with contextlib.AsyncExitStack() as ending:
        ending.callback(placement.release)
        rewards = RewardPool(config.rewards, waits)
        ending.callback(rewards.shutdown)
        workers = [
            Actor.create(RolloutWorker, {"max_concurrency": MAX_CONCURRENCY, **options})
            for options in actor_options(placement.rollout)
        ]
        ending.push_async_callback(_end_workers, workers)
        on_phase("starting engines and learners, loading the policy")
        ranks = [Actor.create(LearnerRank, options) for options in actor_options(placement.learner)]
        learners = LearnerGroup(ranks, config.learner, config.grpo, waits)
        ending.callback(learners.kill)
        for role, actor in [*_by_worker(workers).items(), *by_role(ranks).items()]:
            waits.actors.add(role, actor)
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
        try:
            yield system
        finally:
            on_phase("ending the actors")


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
    await waits.answers(who, "starting", _by_worker(calls), config.start_timeout_s, "rollout.start_timeout_s")


def _by_worker(calls: Sequence[R]) -> dict[str, R]:
    """What belongs to each rollout worker, in their order, by the worker's role in errors."""
    return {f"rollout worker {index}": call for index, call in enumerate(calls)}


async def _end_workers(workers: Sequence[Actor[RolloutWorker]]) -> None:
    """Ends each engine's processes, then the actors, also if the wait for the engines is cancelled."""
    try:
        calls = [asyncio.ensure_future(worker.call(RolloutWorker.shutdown)) for worker in workers]
        done, _ = await asyncio.wait(calls, timeout=END_S)
        for call in done:
            call.exception()  # retrieved: an engine that is gone needs no end
    finally:
        for worker in workers:
            worker.kill()
