"""Adds up the rewards of a group's completions, and leaves out completions that no reward function applies to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ssr1_rl.faults.budget import FailedGroup
from ssr1_rl.rewards.base import Rewards
from ssr1_rl.types import RolloutGroup, ScoredGroup


def weighted(
    group: RolloutGroup, breakdown: Mapping[str, Rewards], weights: Mapping[str, float]
) -> ScoredGroup | FailedGroup:
    """The weighted sum over the functions that apply to each completion.

    A reward of None adds nothing, and the other weights stay as they are (as in TRL). If no function with a weight
    applies to a completion, it has no reward, which is not a reward of 0: it is left out of the group, its baseline and
    the loss, and counted. A group of which fewer than two completions are left (one, if it has only one) fails.
    """
    counting = [name for name, weight in weights.items() if weight] or list(weights)
    indices = range(len(group.completions))
    scored = [i for i in indices if any(breakdown[name][i] is not None for name in counting)]
    if len(scored) < min(2, len(group.completions)):
        return FailedGroup(
            group.id,
            ", ".join(counting),
            group.question.id,
            group.question.source,
            f"it returned None (does not apply) for {len(group.completions) - len(scored)} of "
            f"{len(group.completions)} completions, and no other reward function with a weight applies to them",
            attempts=1,
        )
    kept = {name: tuple(rewards_G[i] for i in scored) for name, rewards_G in breakdown.items()}
    rewards_G = tuple(
        sum(weight * reward for name, weight in weights.items() if (reward := kept[name][row]) is not None)
        for row in range(len(scored))
    )
    completions = tuple(group.completions[i] for i in scored)
    return ScoredGroup(replace(group, completions=completions), rewards_G, kept, len(indices) - len(scored))
