"""Groups whose rewards failed: each is counted and left out of training, and too many of them stop the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ssr1_rl.errors import RunError
from ssr1_rl.types import GroupId, ScoredGroup

MIN_WINDOW = 20
"""Smallest window, in groups; in a smaller one, a single flaky call would stop the run."""


class RewardFailure(RunError):
    """The run stops: a reward function cannot be loaded, or it fails on too many groups."""


@dataclass(frozen=True)
class FailedGroup:
    """A group that is not trained on because every try of a reward function failed on it."""

    group_id: GroupId
    reward_name: str
    question_id: str
    source: str  # file and row of the question
    error: str  # of the last try
    attempts: int


class FailureBudget:
    """Stops the run when too many of its newest groups have failed.

    The window is the newest `questions_per_step` groups, at least `MIN_WINDOW`. The run stops when more than
    `max_failed_share` of the window's size have failed, even before the window is full: a single failure at the start
    does not stop the run, and a broken reward function stops it early.
    """

    def __init__(self, max_failed_share: float, questions_per_step: int) -> None:
        self._max_failed_share = max_failed_share
        self._newest: deque[bool] = deque(maxlen=max(questions_per_step, MIN_WINDOW))

    @property
    def failed_share(self) -> float:
        """Failed groups in the window, as a share of its size."""
        return sum(self._newest) / (self._newest.maxlen or 1)

    def window(self) -> list[bool]:
        """Whether each of the newest groups failed, the oldest first."""
        return list(self._newest)

    def load_window(self, window: Sequence[bool]) -> None:
        """Continues after these groups, which were finished before a resume."""
        self._newest.extend(window)

    def record(self, result: ScoredGroup | FailedGroup) -> None:
        """Counts one finished group.

        Raises:
            RewardFailure: the newest groups failed more often than `max_failed_share` allows.
        """
        self._newest.append(isinstance(result, FailedGroup))
        if isinstance(result, FailedGroup) and self.failed_share > self._max_failed_share:
            raise RewardFailure(self._explain(result))

    def _explain(self, last: FailedGroup) -> str:
        source = f" ({last.source})" if last.source else ""
        return (
            f"reward function {last.reward_name!r} failed on question {last.question_id!r}{source}, "
            f"{last.attempts} of {last.attempts} tries: {last.error}\n"
            f"{sum(self._newest)} of the newest {self._newest.maxlen} groups failed like this; "
            f"grpo.max_failed_share is {self._max_failed_share:g}. "
            "Fix the function or the row; if the function is only slow, raise its timeout_s; "
            "if such failures are expected, raise grpo.max_failed_share."
        )
