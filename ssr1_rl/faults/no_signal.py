"""Says once that a run learns nothing, because the responses of every question get equal rewards step after step."""

from __future__ import annotations

from collections.abc import Sequence

from ssr1_rl.algorithm.variance import has_no_variance
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.types import Completion, ScoredGroup

MIN_STEPS = 5
"""Steps in a row without a difference in reward before it is said."""

MANY = 0.5
"""Share of the responses from which on something is named as the cause."""


class NoSignal:
    """Watches the groups of each step; a difference in reward that makes a gradient starts the count again.

    Args:
        within_groups: whether rewards are only compared within a group; otherwise within the whole step.
    """

    def __init__(self, rewards: Sequence[RewardConfig], within_groups: bool, max_response_tokens: int) -> None:
        self._rewards = rewards
        self._within_groups = within_groups
        self._max_response_tokens = max_response_tokens
        self._num_steps = 0
        self._was_said = False

    def record(self, scored: Sequence[ScoredGroup]) -> list[str]:
        """Counts the groups of one step; gives the sentence when it has to be said, otherwise nothing."""
        compared = [s.rewards_G for s in scored]
        if not self._within_groups:
            compared = [tuple(reward for rewards_G in compared for reward in rewards_G)]
        self._num_steps = self._num_steps + 1 if all(map(has_no_variance, compared)) else 0
        if self._num_steps < MIN_STEPS or self._was_said:
            return []
        self._was_said = True
        return [self._explain(scored)]

    def _explain(self, scored: Sequence[ScoredGroup]) -> str:
        rewards = {reward for s in scored for reward in s.rewards_G}
        value = f"reward {next(iter(rewards)):g}" if len(rewards) == 1 else "the same reward within each question"
        said = f"the last {self._num_steps} steps taught nothing, because every response got {value}"
        causes = self._causes([completion for s in scored for completion in s.group.completions])
        if max(rewards) > 0 and not causes:
            return f"{said}. If that is the best reward, the questions are too easy; if not, check the reward functions"
        return ". ".join([said, *(causes or ["Check the reward functions on a response in samples/"])])

    def _causes(self, completions: Sequence[Completion]) -> list[str]:
        found: list[str] = []
        no_tags = sum("<answer>" not in completion.full_text for completion in completions) / len(completions)
        truncated = sum(completion.finish_reason == "length" for completion in completions) / len(completions)
        if truncated >= MANY:
            found.append(
                f"{truncated:.0%} of the responses are cut at rollout.max_response_tokens={self._max_response_tokens}: "
                "raise it"
            )
        if no_tags >= MANY and (fixes := self._fixes_for_tags()):
            found.append(
                f"{no_tags:.0%} of the responses hold no <answer> </answer>: teach the format first with SFT on a few "
                f"hundred examples, or set {' or '.join(fixes)}"
            )
        return found

    def _fixes_for_tags(self) -> list[str]:
        """What lets a response without tags score; empty if no reward reads tags."""
        fixes: list[str] = []
        for index, reward in enumerate(self._rewards):
            if reward.path:
                continue
            if reward.name == "accuracy" and reward.options.get("require_tags", True):
                fixes.append(f"rewards[{index}].options.require_tags=false")
            if reward.name == "format" and not reward.options.get("partial_credit", False):
                fixes.append(f"rewards[{index}].options.partial_credit=true")
        return fixes
