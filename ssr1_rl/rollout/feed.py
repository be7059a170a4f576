"""Admits questions and returns their scored groups in the order of admission.

A group is admitted -> prepared -> generated -> scored -> taken. At most (max_staleness + 1) x questions_per_step
groups are admitted and not yet trained on. They are taken in the order of admission: so no group is more than
`max_staleness` policy versions old when it is trained on, and a slow group delays its step but is never dropped.

With dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) a group whose rewards are all equal is replaced by the next
one in that order, up to a limit per step. This is decided when the group's turn comes, so the groups of a step do not
depend on which one was scored first.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import NoReturn, TypeAlias, TypedDict

from ssr1_rl.algorithm.variance import teaches_nothing
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.data.skipped import UNUSABLE, SkipList
from ssr1_rl.data.stream import QuestionStream, StreamState
from ssr1_rl.faults.budget import FailedGroup, FailureBudget
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.types import GroupId, PreparedQuestion, Question, ScoredGroup

Result: TypeAlias = tuple[ScoredGroup, PreparedQuestion]


class FeedState(TypedDict):
    """The feed's part of a checkpoint; each pending group as [epoch, question id, attempt].

    `newest_failed` tells of each of the newest groups whether it failed. Pending groups are in neither count: a resume
    issues them again, and counts them then.
    """

    stream: StreamState
    pending: list[tuple[int, str, int]]
    num_failed: int
    newest_failed: list[bool]


class GroupFeed:
    """Sends questions through preparation, rollout and rewards.

    Attributes:
        num_failed: groups left out of the steps so far because a reward function failed.
        num_replaced: groups without reward variance that the last `take` replaced.
        on_group: called when a group is scored or a reward function has failed on it.
    """

    def __init__(
        self,
        stream: QuestionStream,
        preparer: Preparer,
        pool: RolloutPool,
        rewards: RewardPool,
        sampling: Sampling,
        grpo: GrpoConfig,
        skips: SkipList,
    ) -> None:
        self._stream, self._preparer, self._pool, self._rewards = stream, preparer, pool, rewards
        self._sampling, self._skips, self._grpo = sampling, skips, grpo
        self._limit = (grpo.max_staleness + 1) * grpo.questions_per_step
        most = math.ceil(grpo.dynamic_sampling_limit * grpo.questions_per_step - 1e-9)  # 0.7 x 10 is 7.000000000000001
        self._most_replaced = most if grpo.dynamic_sampling else 0
        self._budget = FailureBudget(grpo.max_failed_share, grpo.questions_per_step)
        self._settled = FailureBudget(1.0, grpo.questions_per_step)
        self._admitted: deque[tuple[GroupId, asyncio.Task[Result | FailedGroup | None]]] = deque()
        self._reissue: deque[GroupId] = deque()
        self._taken: list[Result] = []
        self._failed = asyncio.Event()
        self._error: BaseException = AssertionError("no group has failed")
        self.num_failed = 0
        self.num_replaced = 0
        self.on_group: Callable[[], None] = lambda: None

    async def take(self, num_groups: int) -> list[Result]:
        """Waits for the next groups to train on.

        A later group takes the place of one that failed and, under dynamic sampling, of one without reward
        variance; once the limit is reached, groups without variance are taken too.

        Raises:
            RewardFailure: too many groups failed in their rewards.
            TooManyUnusable: too many questions cannot be used.
        """
        self.num_replaced = 0
        self._admit()
        while len(self._taken) < num_groups:
            result = await self._head()
            self._admitted.popleft()
            if result is not None:
                self._settled.record(result if isinstance(result, FailedGroup) else result[0])
            if isinstance(result, FailedGroup):
                self.num_failed += 1
            elif result is not None:
                if self.num_replaced < self._most_replaced and self._teaches_nothing(result[0]):
                    self.num_replaced += 1
                else:
                    self._taken.append(result)
            self._admit()
        return self._taken

    def _teaches_nothing(self, scored: ScoredGroup) -> bool:
        return teaches_nothing(scored, self._grpo, self._rewards.weights)

    @property
    def reached_limit(self) -> bool:
        """Whether dynamic sampling replaced as many groups in this step as the limit allows."""
        return bool(self._most_replaced) and self.num_replaced == self._most_replaced

    async def _head(self) -> Result | FailedGroup | None:
        """Waits for the oldest group's result; an error in any other group is raised as soon as it happens."""
        while True:
            tasks = [task for _, task in self._admitted]
            results = {task: task.result() for task in tasks if task.done()}
            if tasks[0] in results:
                return results[tasks[0]]
            await asyncio.wait(set(tasks) - results.keys(), return_when=asyncio.FIRST_COMPLETED)

    async def failed(self) -> NoReturn:
        """Raises the first error of any group, also while nobody waits in `take`."""
        await self._failed.wait()
        raise self._error

    def _keep_error(self, task: "asyncio.Task[Result | FailedGroup | None]") -> None:
        if not task.cancelled() and (error := task.exception()) and not self._failed.is_set():
            self._error = error
            self._failed.set()

    def trained(self) -> None:
        """Releases the groups taken: they have been trained on, and the engines have the new weights."""
        self._taken = []

    def _admit(self) -> None:
        while len(self._admitted) + len(self._taken) < self._limit:
            group_id, question = self._next()
            task = asyncio.create_task(self._follow(group_id, question))
            task.add_done_callback(self._keep_error)
            self._admitted.append((group_id, task))

    def _next(self) -> tuple[GroupId, Question]:
        if self._reissue:
            group_id = self._reissue.popleft()
            return group_id, self._stream.question(group_id.question_id)
        return next(self._stream)

    async def _follow(self, group_id: GroupId, question: Question) -> Result | FailedGroup | None:
        """Prepares, generates and scores one group; None if its question is unusable, which is counted."""
        try:
            prepared = await self._preparer.prepare(question)
        except UNUSABLE as error:
            self._skips.skipped(question, error)
            return None
        self._skips.used(question)
        result = await self._rewards.score(await self._pool.generate(group_id, prepared, self._sampling))
        self.on_group()
        self._budget.record(result)
        return result if isinstance(result, FailedGroup) else (result, prepared)

    def state_dict(self) -> FeedState:
        """The stream's cursor and the groups admitted but not trained on, which a resume issues again."""
        pending = [scored.group.id for scored, _ in self._taken]
        pending += [group_id for group_id, _ in self._admitted] + list(self._reissue)
        return {
            "stream": self._stream.state_dict(),
            "pending": [(g.epoch, g.question_id, g.attempt + 1) for g in pending],
            "num_failed": self.num_failed,
            "newest_failed": self._settled.window(),
        }

    def load_state_dict(self, state: FeedState) -> None:
        """Resumes from what `state_dict` returned; raises like `QuestionStream.load_state_dict`."""
        self._stream.load_state_dict(state["stream"])
        self._reissue = deque(GroupId(*pending) for pending in state["pending"])
        self.num_failed = state["num_failed"]
        self._settled.load_window(state.get("newest_failed", []))
        self._budget.load_window(self._settled.window())

    def close(self) -> None:
        """Cancels all groups in flight."""
        for _, task in self._admitted:
            task.cancel()
