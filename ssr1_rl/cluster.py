"""Reserves a cluster's resources for the actors, and explains what it lacks."""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import RunError

BUSY_S = 60.0
"""Longest wait for resources that the cluster has and that other jobs hold, if run.wait_for_resources_s is shorter."""
PATIENCE_S = 2.0
"""Seconds after which the wait for resources is shown with what is missing."""
POLL_S = 0.25


class ClusterTooSmall(RunError):
    """The cluster cannot hold the run; the message says what it needs, what the cluster has, and the fix."""


@dataclass(frozen=True)
class Plan:
    """What the run reserves: one bundle per rollout worker and learner rank, and what the reward actors need."""

    rollout_bundle: Mapping[str, float]
    num_rollout_workers: int
    learner_bundle: Mapping[str, float]
    num_learners: int
    reward_bundle: Mapping[str, float]  # of all reward actors together
    reward_actors: Sequence[Mapping[str, float]]  # of each reward actor that needs anything

    @property
    def total(self) -> dict[str, float]:
        """Amount of each resource that the whole run needs."""
        workers = [self.rollout_bundle] * self.num_rollout_workers
        bundles = [self.reward_bundle, *workers, *[self.learner_bundle] * self.num_learners]
        names = {name: None for bundle in bundles for name in bundle}
        return {name: sum(bundle.get(name, 0.0) for bundle in bundles) for name in names}

    def rows(self) -> list[tuple[str, int, str]]:
        """(who, how many, resources of each), for tables and messages."""
        return [
            ("rollout worker", self.num_rollout_workers, _in_words(self.rollout_bundle)),
            ("learner rank", self.num_learners, _in_words(self.learner_bundle)),
            ("reward actors", 1, _in_words(self.reward_bundle) + " together"),
        ]


def make_plan(config: Config) -> Plan:
    """Computes what a run reserves from its settings."""
    gpus = config.run.device == "cuda"
    gpus_per_engine = float(config.rollout.tensor_parallel_size)
    return Plan(
        rollout_bundle={"CPU": config.rollout.num_cpus} | ({"GPU": gpus_per_engine} if gpus else {}),
        num_rollout_workers=config.rollout.num_workers,
        learner_bundle={"CPU": config.learner.num_cpus} | ({"GPU": 1.0} if gpus else {}),
        num_learners=config.learner.num_workers,
        reward_bundle=_reward_bundle(config.rewards),
        reward_actors=[bundle for reward in config.rewards for bundle in _reward_actors(reward)],
    )


def _reward_actors(reward: RewardConfig) -> list[dict[str, float]]:
    needs = {"CPU": reward.num_cpus, "GPU": reward.num_gpus}
    bundle = {name: amount for name, amount in needs.items() if amount}
    return [bundle] * reward.num_actors if bundle else []


def _reward_bundle(rewards: Sequence[RewardConfig]) -> dict[str, float]:
    """What all reward actors need. Fractions share a GPU where they fit; engines and learners take whole GPUs."""
    cpus = sum(reward.num_actors * reward.num_cpus for reward in rewards)
    wanted = sorted((r.num_gpus for r in rewards for _ in range(r.num_actors) if r.num_gpus), reverse=True)
    gpus = math.fsum(share for share in wanted if share >= 1)
    free: list[float] = []  # of each shared GPU
    for share in (share for share in wanted if share < 1):
        fitting = next((i for i, left in enumerate(free) if share <= left + 1e-9), None)
        if fitting is None:
            free.append(1.0 - share)
        else:
            free[fitting] -= share
    return {"CPU": cpus} | ({"GPU": gpus + len(free)} if wanted else {})


def check_fits(plan: Plan, resources: Mapping[str, float] | None = None) -> None:
    """Compares the plan with the cluster's total resources.

    Raises:
        ClusterTooSmall: the plan needs more. Raised at once, because Ray would wait for the resources forever.
    """
    there = dict(resources if resources is not None else ray.cluster_resources())
    asked = plan.total
    if asked.get("GPU", 0) and not there.get("GPU"):
        raise ClusterTooSmall(
            f"this run needs {_in_words(asked)} and the cluster has no GPU at all ({_in_words(there)}). "
            "Use a cluster with GPUs, or launch/local.yaml, which runs the same system on CPUs" + _joining_later()
        )
    lacking = [name for name, amount in asked.items() if amount > there.get(name, 0.0) + 1e-9]
    if lacking:
        fixes = {
            "GPU": "lower rollout.num_workers, rollout.tensor_parallel_size or learner.num_workers"
            + (" or rewards[*].num_gpus" if plan.reward_bundle.get("GPU") else ""),
            "CPU": "lower rollout.num_cpus, learner.num_cpus or rewards[*].num_cpus (reservations, not threads)",
        }
        rows = "; ".join(f"{count} x {who}: {each}" for who, count, each in plan.rows())
        raise ClusterTooSmall(
            f"this run needs {_in_words(asked)} ({rows}) but the cluster has {_in_words(there)}: "
            + " and ".join(fixes.get(name, f"lower {name}") for name in lacking)
            + _joining_later()
        )


def _joining_later() -> str:
    """What to do if the cluster is going to grow; a cluster that the run starts itself never does."""
    return "; if nodes join later, set run.wait_for_resources_s" if os.environ.get("RAY_ADDRESS") else ""


@dataclass(frozen=True)
class Placement:
    """Reserved placement groups of a run."""

    rollout: PlacementGroup
    learner: PlacementGroup
    rewards: PlacementGroup | None = None  # only while nodes may join: see `reserve`

    def release(self) -> None:
        """Removes the placement groups."""
        for group in (self.rollout, self.learner, self.rewards):
            if group is not None:
                ray.util.remove_placement_group(group)


def actor_options(group: PlacementGroup) -> list[dict[str, object]]:
    """Ray options that place an actor in each bundle of a placement group."""
    return [
        {
            "num_cpus": bundle.get("CPU", 0),
            "num_gpus": bundle.get("GPU", 0),
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
        }
        for index, bundle in enumerate(group.bundle_specs)
    ]


async def reserve(plan: Plan, wait_s: float, on_phase: Callable[[str], None]) -> Placement:
    """Reserves the bundles. Learners are packed onto as few nodes as possible.

    Args:
        wait_s: `run.wait_for_resources_s`: how long nodes may take to join. The pending placement groups are what
            an autoscaler sees as demand: one holds what the reward actors need, and is removed at the end of the wait
            for them to start. 0: a cluster that is too small is refused at once.
        on_phase: called with what is waited for, again and again while it lasts.

    Raises:
        ClusterTooSmall: the cluster is too small, or other jobs hold the missing resources.
    """
    on_phase("reserving resources")
    if not wait_s:
        check_fits(plan)
    placement = Placement(
        rollout=placement_group([dict(plan.rollout_bundle)] * plan.num_rollout_workers, strategy="PACK"),
        learner=placement_group([dict(plan.learner_bundle)] * plan.num_learners, strategy="PACK"),
        rewards=placement_group([dict(bundle) for bundle in plan.reward_actors], strategy="PACK")
        if wait_s and plan.reward_actors
        else None,
    )
    limit_s = max(wait_s, BUSY_S)
    started = time.monotonic()
    try:
        while missing := _missing(plan, placement):
            waited_s = time.monotonic() - started
            if waited_s >= limit_s:
                check_fits(plan)
                raise ClusterTooSmall(f"could not reserve {missing} within {limit_s:g} s. {_who_holds_the_rest()}")
            if waited_s >= PATIENCE_S:
                on_phase(f"waiting for resources, {waited_s:.0f} of at most {limit_s:.0f} s: {missing}")
            await asyncio.sleep(POLL_S)
    except BaseException:
        placement.release()
        raise
    if placement.rewards is not None:
        ray.util.remove_placement_group(placement.rewards)
    return Placement(placement.rollout, placement.learner)


def _missing(plan: Plan, placement: Placement) -> str:
    """What is not there yet, in words; empty if everything is reserved."""
    try:
        check_fits(plan)
    except ClusterTooSmall as error:
        return str(error)
    missing = [
        f"{len(group.bundle_specs)} x {_in_words(group.bundle_specs[0])} for the {name}"
        for name, group in (("rollout workers", placement.rollout), ("learners", placement.learner))
        if not group.wait(0)
    ]
    if placement.rewards is not None and not placement.rewards.wait(0):
        missing.append(f"{_in_words(plan.reward_bundle)} for the reward actors")
    return " and ".join(missing)


def _who_holds_the_rest() -> str:
    return (
        f"The cluster has {_in_words(ray.cluster_resources())} in all, of which {_in_words(ray.available_resources())} "
        "are free. A bundle must fit on one node; other jobs may hold the rest: `ray status` shows who does"
    )


def _in_words(resources: Mapping[str, float]) -> str:
    parts = []
    for name in ("GPU", "CPU"):
        if name in resources:
            amount = math.floor(resources[name] * 1000 + 0.5) / 1000
            parts.append(f"{amount:g} {name}{'' if amount == 1 else 's'}")
    return " and ".join(parts) or "nothing"
