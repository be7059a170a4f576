"""The reward stage: RolloutGroup -> ScoredGroup, or FailedGroup when a reward function fails.

    RewardPool (in the controller)
      └ one ActorGroup per reward function: retries, limits, which actor is free
          └ num_actors × RewardActor (Ray): the user's code runs here

All functions score a group at the same time. A try fails if the function raises, hangs, loses its actor or does not
return one finite number, or None for "does not apply", per completion. After max_retries further tries the group is
left out of training; it never gets a made-up reward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import ray

from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.faults.budget import FailedGroup
from ssr1_rl.rewards.actor_group import ActorGroup
from ssr1_rl.rewards.base import Rewards
from ssr1_rl.rewards.load import check_reward
from ssr1_rl.rewards.source import reward_name
from ssr1_rl.rewards.weighting import weighted
from ssr1_rl.types import RolloutGroup, ScoredGroup


class RewardPool:
    """All reward functions of a run. Used by the controller, from one event loop.

    Raises:
        ConfigError: a function cannot be found or loaded here, an option is unknown, or two have the same name.
    """

    def __init__(self, configs: Sequence[RewardConfig], waits: Waits) -> None:
        if not configs:
            raise ConfigError("rewards is empty: name at least one reward function, such as [{name: accuracy}]")
        sources = [check_reward(config, f"rewards[{i}]") for i, config in enumerate(configs)]
        self._weights: dict[str, float] = {}
        for source in sources:
            name, field = reward_name(source.config), source.field
            if name in self._weights:
                raise ConfigError(f"{field}.name {name!r} is taken by another reward function; set {field}.name")
            self._weights[name] = source.config.weight
        self._actor_groups = [ActorGroup(source, waits) for source in sources]

    @property
    def names(self) -> tuple[str, ...]:
        """The reward functions' names, in the order of the settings."""
        return tuple(self._weights)

    @property
    def weights(self) -> dict[str, float]:
        """`rewards[].weight` by the reward function's name."""
        return dict(self._weights)

    async def ready(self) -> None:
        """Waits until every actor has loaded its function; raises `RewardFailure` if one cannot."""
        await asyncio.gather(*(actor_group.ready() for actor_group in self._actor_groups))

    async def score(self, group: RolloutGroup) -> ScoredGroup | FailedGroup:
        """Scores a group by every function; a FailedGroup says which function failed, or which apply to nothing.

        Raises:
            RewardFailure: an actor cannot load its function or cannot start; more tries would not help.
        """
        group_ref = ray.put(group)  # once, for all functions and tries
        outcomes = await asyncio.gather(*(a.score(group, group_ref) for a in self._actor_groups))
        breakdown: dict[str, Rewards] = {}
        for name, outcome in zip(self.names, outcomes, strict=True):
            if isinstance(outcome, FailedGroup):
                return outcome
            breakdown[name] = outcome
        return weighted(group, breakdown, self._weights)

    def shutdown(self) -> None:
        """Ends all actors; the pool cannot be used again."""
        for actor_group in self._actor_groups:
            actor_group.shutdown()
