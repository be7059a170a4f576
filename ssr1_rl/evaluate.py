"""Validation: answers a split's questions greedily and scores the answers with the run's reward functions."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ssr1_rl.data.skipped import UNUSABLE, SkipList
from ssr1_rl.errors import UserError
from ssr1_rl.faults.budget import FailedGroup, RewardFailure
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.types import VALIDATION, GroupId, Question, ScoredGroup


@dataclass(frozen=True)
class Evaluation:
    """Means over a split's questions, with one greedy response each."""

    score: float  # the accuracy reward if the run has one, else the weighted sum of rewards
    rewards: Mapping[str, float]  # mean of each reward function where it applies, unweighted, by its name
    score_by_kind: Mapping[str, float]  # by kind of question; empty if the data set names no kinds
    num_questions: int  # questions that were answered and scored
    response_tokens_mean: float
    truncated_share: float  # share of responses that were cut at the token limit

    def metrics(self) -> dict[str, float]:
        """Every figure, by its name in `metrics.jsonl` after the prefix validation/<split>/."""
        return {
            **self.rewards,
            "score": self.score,
            **{f"score/{kind}": score for kind, score in self.score_by_kind.items()},
            "num_questions": float(self.num_questions),
            "response_tokens_mean": self.response_tokens_mean,
            "truncated_share": self.truncated_share,
        }


async def evaluate(
    questions: Sequence[Question],
    preparer: Preparer,
    pool: RolloutPool,
    rewards: RewardPool,
    sampling: Sampling,
    skips: SkipList,
    max_in_flight: int = 512,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> Evaluation:
    """Answers every question once, as `sampling` says: one greedy response.

    Raises:
        RewardFailure: a reward function failed on a question; a mean over the others would not be comparable.
        TooManyUnusable: too many questions cannot be used.
        ValueError: no question of the split can be used.
    """
    gate = asyncio.Semaphore(max_in_flight)
    results: list[ScoredGroup] = []

    async def answer(question: Question) -> None:
        async with gate:
            try:
                prepared = await preparer.prepare(question)
            except UNUSABLE as error:
                skips.skipped(question, error)
                return
            skips.used(question)
            scored = await rewards.score(await pool.generate(GroupId(VALIDATION, question.id), prepared, sampling))
        if isinstance(scored, FailedGroup):
            raise RewardFailure(
                f"reward {scored.reward_name} failed on validation question {scored.question_id} ({scored.source}) "
                f"{scored.attempts} times: {scored.error}"
            )
        results.append(scored)
        on_progress(len(results))

    try:
        async with asyncio.TaskGroup() as tasks:
            for question in questions:
                tasks.create_task(answer(question))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first error cancelled the other tasks
    return _summarise(results)


def _summarise(results: Sequence[ScoredGroup]) -> Evaluation:
    if not results:
        raise ValueError("no question of the validation split can be used; skipped.jsonl in run.dir says why")
    if "accuracy" in results[0].breakdown and not _applied(results, "accuracy"):
        raise UserError(
            "the reward function 'accuracy' returned None (does not apply) for every question of the validation split, "
            "so the split has no score: give the function another name, or leave the split out"
        )
    by_kind: dict[str, list[float]] = defaultdict(list)
    scored = [(result, score) for result in results if (score := _score(result)) is not None]
    for result, score in scored:
        if result.group.question.kind:
            by_kind[result.group.question.kind].append(score)
    completions = [result.group.completions[0] for result in results]
    return Evaluation(
        score=_mean([score for _, score in scored]),
        rewards={name: _mean(values) for name in results[0].breakdown if (values := _applied(results, name))},
        score_by_kind={kind: _mean(scores) for kind, scores in sorted(by_kind.items())},
        num_questions=len(results),
        response_tokens_mean=_mean([len(c.token_ids) for c in completions]),
        truncated_share=_mean([c.finish_reason == "length" for c in completions]),
    )


def _score(result: ScoredGroup) -> float | None:
    """The question's score; None if there is an accuracy reward that does not apply to it."""
    return result.breakdown["accuracy"][0] if "accuracy" in result.breakdown else result.rewards_G[0]


def _applied(results: Sequence[ScoredGroup], name: str) -> list[float]:
    """The rewards of one function, of the questions that it applies to."""
    return [reward for result in results if (reward := result.breakdown[name][0]) is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
