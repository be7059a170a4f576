"""When a run saves and validates, and which checkpoint its newest step has."""

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.store.checkpoints import FOLDER, Checkpoint, CheckpointStore
from ssr1_rl.store.resume import Resume


class Pace(Protocol):
    """How long a run is, and how often it validates; `GrpoConfig` is one."""

    @property
    def num_steps(self) -> int: ...
    @property
    def validate_every(self) -> int: ...


class Keeper:
    """Knows the newest checkpoint of a run, and decides what is due after each step.

    Args:
        has_splits: whether there is anything to validate on.
    """

    def __init__(
        self, run_dir: Path, pace: Pace, checkpoint: CheckpointConfig, resume: Resume, has_splits: bool
    ) -> None:
        self._run_dir, self._pace, self._checkpoint, self._has_splits = run_dir, pace, checkpoint, has_splits
        self._store = CheckpointStore(run_dir, checkpoint, resume.lineage)
        self._saved = resume.checkpoint
        self._saved_at_s = time.monotonic()

    def is_last(self, step: int) -> bool:
        return step >= self._pace.num_steps

    def is_validated(self, step: int) -> bool:
        """Whether the policy of this step is to be validated."""
        every = self._pace.validate_every
        return self._has_splits and every > 0 and (self.is_last(step) or step % every == 0)

    def is_saved(self, step: int) -> bool:
        """Whether this step has a checkpoint."""
        return self._saved is not None and self._saved.step == step

    def is_due(self, step: int) -> bool:
        """Whether this step is to be saved whatever its validation says."""
        is_late = 0 < self._checkpoint.every_s <= time.monotonic() - self._saved_at_s
        return is_late or self.is_last(step) or step % self._checkpoint.every == 0

    def is_best(self, score: float | None) -> bool:
        """Whether a step is to be saved because of its score."""
        if score is None or not self._checkpoint.keep_best:
            return False
        best = self._store.best()
        return best is None or best.score is None or score > best.score

    def lacks_validation(self, step: int) -> bool:
        """Whether this step's checkpoint is due a score that it has not.

        One that a resumed run has tried to validate in vain is due no more, unless it is the last; and one of another
        folder is that run's to validate.
        """
        saved = self._saved
        if saved is None or saved.step != step or saved.score is not None:
            return False
        is_own = saved.path.resolve().parent == (self._run_dir / FOLDER).resolve()
        return is_own and self.is_validated(step) and (self.is_last(step) or not saved.revalidated)

    async def save(
        self,
        step: int,
        controller: Mapping[str, object],
        score: float | None,
        save_learner: Callable[[Path], Awaitable[None]],
    ) -> None:
        """Writes a checkpoint, see `CheckpointStore.save`."""
        self._saved = await self._store.save(step, controller, score, save_learner)
        self._saved_at_s = time.monotonic()

    async def add_score(self, score: float | None) -> None:
        """Writes the score of the newest checkpoint into it; None if its validation was broken off."""
        if score is not None:
            self._saved = await self._store.add_score(self._newest(), score)

    async def begin_revalidation(self) -> None:
        """Notes that a resumed run validates the newest checkpoint."""
        self._saved = await self._store.begin_revalidation(self._newest())

    def _newest(self) -> Checkpoint:
        assert self._saved is not None, "called for a step that is saved"
        return self._saved
