"""Validation: answers a split's questions greedily and scores the answers with the run's reward functions.

A question without a score (its clip cannot be used, its generation or a reward failed) is left out of the means and
counted; too large a share of them stops the run, because the means would no longer be comparable.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ray.exceptions import RayTaskError

from ssr1_rl.actors.waits import WaitedTooLong
from ssr1_rl.data.skipped import UNUSABLE, SkipList
from ssr1_rl.errors import RunError, UserError
from ssr1_rl.evaluation.summary import KIND, by_value, mean, truncated_share
from ssr1_rl.faults.budget import FailedGroup
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.types import VALIDATION, GroupId, Question, ScoredGroup

MAX_UNSCORED_SHARE = 0.05
"""Default of `grpo.max_unscored_share`."""


class TooManyUnscored(RunError):
    """More questions of a validation split than `grpo.max_unscored_share` have no score."""


@dataclass(frozen=True)
class Evaluation:
    """Means over a split's questions that have a score, with one greedy response each."""

    measure: str  # what `score` is: "accuracy" if the run has that reward, else "reward", the weighted sum
    score: float
    rewards: Mapping[str, float]  # mean of each reward function where it applies, unweighted, by its name
    score_by_kind: Mapping[str, float]  # by kind of question; empty if the data set names no kinds
    num_questions: int  # questions with a score
    num_not_applying: int  # questions that the accuracy reward does not apply to
    num_unusable: int  # questions whose clip or prompt cannot be used
    num_failed: int  # questions whose generation or reward failed
    response_tokens_mean: float
    truncated_share: float  # share of responses that were cut at the token limit

    def metrics(self) -> dict[str, float]:
        """Every figure, by its name in `metrics.jsonl` after the prefix validation/<split>/."""
        return {
            **self.rewards,
            "score": self.score,
            **{f"score/{kind}": score for kind, score in self.score_by_kind.items()},
            "num_questions": float(self.num_questions),
            "num_not_applying": float(self.num_not_applying),
            "num_unusable": float(self.num_unusable),
            "num_failed": float(self.num_failed),
            "response_tokens_mean": self.response_tokens_mean,
            "truncated_share": self.truncated_share,
        }


class _Unscored:
    """Counts the questions of a split that have no score; raises `TooManyUnscored` above the allowed share.

    One question is always allowed, unless the share is 0.
    """

    def __init__(self, num_questions: int, max_share: float) -> None:
        self._num_questions, self._max_share = num_questions, max_share
        self.num_unusable = self.num_failed = 0

    def unusable(self, question: Question, error: Exception) -> None:
        self.num_unusable += 1
        self._check(question, str(error))

    def failed(self, question: Question, error: str) -> None:
        self.num_failed += 1
        self._check(question, error)

    @property
    def num(self) -> int:
        """Questions without a score so far."""
        return self.num_unusable + self.num_failed

    def _check(self, question: Question, error: str) -> None:
        allowed = max(self._max_share * self._num_questions, 1.0 if self._max_share else 0.0)
        if self.num > allowed:
            source = f" ({question.source})" if question.source else ""
            raise TooManyUnscored(
                f"{self.num} of the {self._num_questions} questions of this validation split have no score "
                f"({self.num_unusable} cannot be used, {self.num_failed} failed), more than "
                f"grpo.max_unscored_share={self._max_share:g}; the last one is {question.id!r}{source}: {error}. "
                "Fix what fails, or raise the share; the same command then resumes and validates again"
            )


async def evaluate(
    questions: Sequence[Question],
    preparer: Preparer,
    pool: RolloutPool,
    rewards: RewardPool,
    sampling: Sampling,
    skips: SkipList,
    max_unscored_share: float = MAX_UNSCORED_SHARE,
    max_in_flight: int = 512,
    on_progress: Callable[[int], None] = lambda num_done: None,
) -> Evaluation:
    """Answers every question once, as `sampling` says: one greedy response. `skips` lists those that cannot be used.

    Raises:
        TooManyUnscored: too many questions have no score.
        RewardFailure: a reward's actors cannot work at all.
        ray.exceptions.RayActorError: a rollout worker died.
    """
    gate = asyncio.Semaphore(max_in_flight)
    unscored = _Unscored(len(questions), max_unscored_share)
    results: list[ScoredGroup] = []

    async def answer(question: Question) -> None:
        try:
            prepared = await preparer.prepare(question)
        except UNUSABLE as error:
            skips.record(question, error)
            unscored.unusable(question, error)
            return
        try:
            generated = await pool.generate(GroupId(VALIDATION, question.id), prepared, sampling)
        except (WaitedTooLong, RayTaskError) as error:
            # The engine refused or lost this one; if it is broken, all fail and the share stops the run.
            unscored.failed(question, str(error))
            return
        scored = await rewards.score(generated)
        if isinstance(scored, FailedGroup):
            unscored.failed(question, f"reward {scored.reward_name}, {scored.attempts} tries: {scored.error}")
        else:
            results.append(scored)

    async def answer_in_turn(question: Question) -> None:
        async with gate:
            await answer(question)
        on_progress(len(results) + unscored.num)

    try:
        async with asyncio.TaskGroup() as tasks:
            for question in questions:
                tasks.create_task(answer_in_turn(question))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # the first error cancelled the other tasks
    return _summarise(results, unscored)


def _summarise(results: Sequence[ScoredGroup], unscored: _Unscored) -> Evaluation:
    if not results:
        raise TooManyUnscored(
            f"no question of the validation split has a score: {unscored.num_unusable} cannot be used (skipped.jsonl "
            f"in run.dir says why), {unscored.num_failed} failed; fix them, or remove the split from data.validation"
        )
    if "accuracy" in results[0].breakdown and not _applied(results, "accuracy"):
        raise UserError(
            "the reward function 'accuracy' returned None (does not apply) for every question of the validation split, "
            "so the split has no score: give the function another name, or leave the split out"
        )
    scored = [(result.group.question, score) for result in results if (score := _score(result)) is not None]
    completions = [result.group.completions[0] for result in results]
    return Evaluation(
        measure="accuracy" if "accuracy" in results[0].breakdown else "reward",
        score=mean([score for _, score in scored]),
        rewards={name: mean(values) for name in results[0].breakdown if (values := _applied(results, name))},
        score_by_kind={kind: mean(scores) for kind, scores in by_value(scored, KIND).items()},
        num_questions=len(scored),
        num_not_applying=len(results) - len(scored),
        num_unusable=unscored.num_unusable,
        num_failed=unscored.num_failed,
        response_tokens_mean=mean([len(c.token_ids) for c in completions]),
        truncated_share=truncated_share([c.finish_reason for c in completions]),
    )


def _score(result: ScoredGroup) -> float | None:
    """The question's score; None if there is an accuracy reward that does not apply to it."""
    return result.breakdown["accuracy"][0] if "accuracy" in result.breakdown else result.rewards_G[0]


def _applied(results: Sequence[ScoredGroup], name: str) -> list[float]:
    """The rewards of one function, of the questions that it applies to."""
    return [reward for result in results if (reward := result.breakdown[name][0]) is not None]
