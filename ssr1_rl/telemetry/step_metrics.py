"""Computes the metrics of one step from its groups, the learners' metrics and a clock; see docs/metrics.md."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ssr1_rl.algorithm.step_batch import num_loss_tokens, num_unusable_tokens
from ssr1_rl.algorithm.variance import has_no_variance
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.types import ScoredGroup, TrainGroup


class StepClock:
    """Measures the seconds of a step's parts, and how long each rollout worker was busy meanwhile."""

    def __init__(self, pool: RolloutPool) -> None:
        self._pool = pool
        self._busy_before = pool.busy_s()
        self._started = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Ends the part `name` of the step; the next part begins."""
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now

    @property
    def step_s(self) -> float:
        """Seconds from the start of the step to its last lap."""
        return self._last - self._started

    def worker_busy_s(self) -> list[float]:
        """Seconds that each rollout worker had work since the start of the step."""
        return [after - before for after, before in zip(self._pool.busy_s(), self._busy_before, strict=True)]


@dataclass(frozen=True)
class NotTrained:
    """Counts of what was generated or read but is not in the step's batch."""

    num_replaced: int = 0  # groups without reward variance that were replaced for this step
    replacement_limit_reached: bool = False  # whether the step replaced as many groups as it may
    num_failed_groups: int = 0  # groups that a reward function failed on, since the run began
    num_skipped_questions: int = 0  # training questions that cannot be used, since the run began


def step_metrics(
    scored: Sequence[ScoredGroup],
    batch: Sequence[TrainGroup],
    learner: Mapping[str, float],
    clock: StepClock,
    step: int,
    not_trained: NotTrained,
) -> dict[str, float]:
    """Every metric of a step, by its name in `metrics.jsonl`.

    Args:
        batch: the groups of `scored`, with their advantages.
        learner: the learners' metrics. `row_tokens` counts a group's prompt once for each response, as a learner
            without prefix packing computes it; `computed_tokens` counts the tokens that were really computed.
        clock: the clock of the step, after its last lap.
        step: step that trained on these groups, from 1; the policy version before it was `step` - 1.
        not_trained: replaced groups count in `reward/zero_variance_share`, but in no other mean.
    """
    completions = [c for s in scored for c in s.group.completions]
    rewards = [r for s in scored for r in s.rewards_G]
    lengths = [len(c.token_ids) for c in completions]
    busy_s = clock.worker_busy_s()
    rollout_s = max(busy_s)
    update_s = learner["update_s"]
    stale_tokens = sum((step - 1 - s.policy_version) * (s.end - s.start) for c in completions for s in c.versions)
    num_same = sum(has_no_variance(s.rewards_G) for s in scored)
    num_replaced = not_trained.num_replaced
    metrics = {
        "reward/mean": statistics.fmean(rewards),
        "reward/std": statistics.pstdev(rewards),
        "reward/zero_variance_share": (num_same + num_replaced) / (len(scored) + num_replaced),
        "reward/failed_groups": float(not_trained.num_failed_groups),
        "reward/unscored_responses": float(sum(s.num_unscored for s in scored)),
        "data/skipped_questions": float(not_trained.num_skipped_questions),
        "rollout/replaced_groups": float(num_replaced),
        "rollout/replacement_limit_reached": float(not_trained.replacement_limit_reached),
        "rollout/response_tokens_mean": statistics.fmean(lengths),
        "rollout/response_tokens_max": float(max(lengths)),
        "rollout/truncated_share": statistics.fmean(c.finish_reason == "length" for c in completions),
        "rollout/tokens": float(sum(lengths)),
        "rollout/unusable_logprobs": float(num_unusable_tokens(scored)),
        "rollout/tokens_per_s": sum(lengths) / rollout_s if rollout_s else 0.0,
        "rollout/staleness_mean": stale_tokens / max(1, sum(lengths)),
        "learner/tokens_per_s": learner["row_tokens"] / update_s,
        "learner/computed_tokens_per_s": learner["computed_tokens"] / update_s,
        "learner/idle_share": 1.0 - min(1.0, update_s / clock.step_s),
        "time/step_s": clock.step_s,
        "samples_per_s": len(completions) / clock.step_s,
    }
    metrics |= _means_of_rewards(scored)
    for index, seconds in enumerate(busy_s):
        metrics[f"rollout/idle_share_{index}"] = 1.0 - min(1.0, seconds / clock.step_s)
    metrics |= _advantage_statistics(batch) | _length_by_outcome(scored)
    metrics |= {f"time/{name}": seconds for name, seconds in clock.laps.items()}
    return metrics | {f"train/{name}": value for name, value in learner.items()}


def _means_of_rewards(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """The mean of each reward function over the responses that it applies to, and their share."""
    metrics = {}
    for name in scored[0].breakdown:
        rewards = [reward for s in scored for reward in s.breakdown[name]]
        applied = [reward for reward in rewards if reward is not None]
        metrics[f"reward/{name}/applied_share"] = len(applied) / len(rewards)
        if applied:
            metrics[f"reward/{name}"] = statistics.fmean(applied)
    return metrics


def _advantage_statistics(batch: Sequence[TrainGroup]) -> dict[str, float]:
    """Statistics over the responses that carry loss; empty if none does."""
    advantages = [
        advantage
        for group in batch
        for advantage, num_tokens in zip(group.advantages_G, num_loss_tokens(group), strict=True)
        if num_tokens
    ]
    if not advantages:
        return {}
    return {
        "advantage/mean": statistics.fmean(advantages),
        "advantage/std": statistics.pstdev(advantages),
        "advantage/min": min(advantages),
        "advantage/max": max(advantages),
    }


def _length_by_outcome(scored: Sequence[ScoredGroup]) -> dict[str, float]:
    """Mean length in tokens of correct and of incorrect responses; empty without an `accuracy` reward."""
    lengths: dict[str, list[int]] = {"correct": [], "incorrect": []}
    for s in scored:
        for completion, accuracy in zip(s.group.completions, s.breakdown.get("accuracy", ()), strict=False):
            if accuracy is None:
                continue
            lengths["correct" if accuracy > 0.5 else "incorrect"].append(len(completion.token_ids))
    return {f"rollout/response_tokens_{outcome}": statistics.fmean(n) for outcome, n in lengths.items() if n}
