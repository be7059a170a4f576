"""What happens to a group whose rewards failed: it is counted, and too many stop the run."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ssr1_rl.types import GroupId, ScoredGroup

MIN_WINDOW = 20
"""Fewest groups that a share is taken of; with less, one flaky call would stop a small run."""


class RewardFailure(RuntimeError):
    """The run has to stop: a reward function cannot be loaded, or fails on too many groups."""


@dataclass(frozen=True)
class FailedGroup:
    """A group that is set aside because a reward function failed on it, every try.

    Attributes:
        group_id: the group.
        reward_name: the reward function that failed.
        question_id: the question it failed on.
        source: the question's file and row.
        error: the last try's error, in words.
        attempts: tries made.
    """

    group_id: GroupId
    reward_name: str
    question_id: str
    source: str
    error: str
    attempts: int


class FailureBudget:
    """Counts scored and failed groups, and stops the run when too many fail.

    Too many is: of the newest `window` groups more than `max_failed_share * window`
    failed, where `window` is one step's worth of groups but at least `MIN_WINDOW`. The
    share is of a whole window from the first group on, so that neither a first group that
    fails stops the run, nor do broken rewards go on until a window has filled up.

    Args:
        max_failed_share: `grpo.max_failed_share`.
        questions_per_step: `grpo.questions_per_step`.
    """

    def __init__(self, max_failed_share: float, questions_per_step: int) -> None:
        self._max_failed_share = max_failed_share
        self._newest: deque[bool] = deque(maxlen=max(questions_per_step, MIN_WINDOW))
        self.num_scored = 0
        self.num_failed = 0

    @property
    def failed_share(self) -> float:
        """Share of the window's groups that failed."""
        return sum(self._newest) / (self._newest.maxlen or 1)

    def record(self, result: ScoredGroup | FailedGroup) -> None:
        """Counts one finished group.

        Raises:
            RewardFailure: the newest groups failed more often than `max_failed_share` allows.
        """
        has_failed = isinstance(result, FailedGroup)
        self._newest.append(has_failed)
        if not has_failed:
            self.num_scored += 1
            return
        self.num_failed += 1
        if self.failed_share > self._max_failed_share:
            raise RewardFailure(self._explain(result))

    def _explain(self, last: FailedGroup) -> str:
        source = f" ({last.source})" if last.source else ""
        return (
            f"reward function {last.reward_name!r} failed on question {last.question_id!r}{source}, "
            f"{last.attempts} of {last.attempts} tries: {last.error}\n"
            f"{sum(self._newest)} of the newest {self._newest.maxlen} groups were set aside like this, "
            f"grpo.max_failed_share is {self._max_failed_share:g}. "
            "Fix the function or the row; if it is only slow, raise its timeout_s; "
            "if such groups are to be expected, raise grpo.max_failed_share."
        )
