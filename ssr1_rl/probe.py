"""Compares every engine with the learner after each weight sync, on a few tokens sampled only for that.

With grpo.max_staleness=0 a step trains on tokens of the current policy, which are compared anyway. With more, the
engines sampled all of a step's tokens before the newest sync, so their differences would pass for staleness even if no
sync ever arrived. Here each engine answers one question at the new version, beside its other work, and the learners
compute the same tokens' log-probs before their next update.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from ssr1_rl.algorithm.usable import is_usable
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.trainer.learner_group import LearnerGroup
from ssr1_rl.types import PROBE, GroupId, PreparedQuestion, RolloutGroup, TrainGroup

NUM_TOKENS = 16
"""Longest answer of one engine. Undelivered weights show in every token."""


class SyncProbe:
    """Started after a sync, finished before the learners' next update. `sampling` is that of the training groups."""

    def __init__(self, pool: RolloutPool, learners: LearnerGroup, sampling: Sampling) -> None:
        self._pool, self._learners = pool, learners
        num_tokens = min(NUM_TOKENS, sampling.max_response_tokens)
        self._sampling = replace(sampling, num_completions=1, max_response_tokens=num_tokens)
        self._answers: list[asyncio.Task[RolloutGroup]] = []

    def start(self, prepared: PreparedQuestion, policy_version: int) -> None:
        """Asks every engine; with more learner ranks than engines some twice, because each rank needs a group."""
        self._prepared, self._version = prepared, policy_version
        num_workers = self._pool.num_workers
        self._answers = [
            asyncio.create_task(self._ask(GroupId(PROBE, f"{policy_version}/{index}"), index % num_workers))
            for index in range(max(num_workers, self._learners.num_ranks))
        ]

    async def _ask(self, group_id: GroupId, worker: int) -> RolloutGroup:
        return await self._pool.generate(group_id, self._prepared, self._sampling, worker)

    async def finish(self) -> dict[str, float]:
        """The guard's figures over the answers' usable log-probs; empty without any, or if no sync was probed."""
        if not self._answers:
            return {}
        answers = await asyncio.gather(*self._answers)
        self._answers = []
        for answer in answers:
            assert answer.submitted_version == self._version, "the next sync waits for the probe of the last"
        found = await self._learners.logprobs([_group_of(answer, self._prepared) for answer in answers])
        gaps = [
            abs(mine - theirs)
            for answer, of_answer in zip(answers, found, strict=True)
            for completion, of_completion in zip(answer.completions, of_answer, strict=True)
            for mine, theirs in zip(of_completion, completion.logprobs, strict=True)
            if is_usable(theirs)
        ]
        return logprob_gaps(gaps) if gaps else {}

    def close(self) -> None:
        """Cancels the answers in flight."""
        for answer in self._answers:
            answer.cancel()


def logprob_gaps(gaps: Sequence[float]) -> dict[str, float]:
    """Mean and maximum of the differences, in nats, by their names in a step's metrics."""
    # max() would lose a NaN that does not come first.
    largest = float("nan") if any(gap != gap for gap in gaps) else max(gaps)
    return {
        "logprob_abs_diff_mean": sum(gaps) / len(gaps),
        "logprob_abs_diff_max": largest,
        "comparable_tokens": float(len(gaps)),
    }


def _group_of(answer: RolloutGroup, prepared: PreparedQuestion) -> TrainGroup:
    return TrainGroup(
        id=answer.id,
        prompt_token_ids=prepared.token_ids,
        waveforms=prepared.waveforms,
        responses=tuple(c.token_ids for c in answer.completions),
        rollout_logprobs=tuple(c.logprobs for c in answer.completions),
        advantages_G=(0.0,) * len(answer.completions),
        submitted_version=answer.submitted_version,
        num_audio_tokens=prepared.num_audio_tokens,
    )
