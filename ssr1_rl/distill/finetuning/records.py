"""What rank 0 of SFT keeps in the run's folder: settings, metrics, what was left out, and checkpoints."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from ssr1_rl.config.schema import Config
from ssr1_rl.data.skipped import SkipList, SkipState
from ssr1_rl.distill.finetuning.loader import Unusable
from ssr1_rl.distill.finetuning.plan import Plan, Planned, PlanState
from ssr1_rl.errors import RunError, UserError
from ssr1_rl.files import SetAside, lock
from ssr1_rl.store.checkpoints import Checkpoint
from ssr1_rl.store.folder import set_identity_aside, write_config
from ssr1_rl.store.keeper import Keeper
from ssr1_rl.store.manifest import DamagedCheckpoint, patiently
from ssr1_rl.store.resume import Resume
from ssr1_rl.telemetry.metrics import MetricsWriter

WAIT_FOR_WRITER_S = 60.0


class SftState(TypedDict):
    """Content of an SFT run's controller.json."""

    step: int
    sft: PlanState
    skips: SkipState


@dataclass(frozen=True)
class Pace:
    """How long the run is, and how often it validates."""

    num_steps: int
    validate_every: int


def read_state(checkpoint: Checkpoint, plan: Plan) -> SftState:
    """Reads controller.json, and checks that `plan` continues the checkpoint's.

    Raises:
        UserError: it is the checkpoint of another stage, or of another plan.
    """
    try:
        state: SftState = json.loads(patiently(checkpoint.controller_json))
        is_of_grpo = "feed" in state
        of_plan = {} if is_of_grpo else dict(state["sft"])
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {checkpoint.path} is damaged: controller.json: {error!r}") from error
    if is_of_grpo:
        raise UserError(
            f"checkpoint {checkpoint.path} is one of GRPO, which SFT does not resume; set model.path to the folder "
            "that `ssr1-rl export` writes of it, and another run.dir"
        )
    plan.check(of_plan, checkpoint.path)
    return state


@contextlib.contextmanager
def sole_writer(run_dir: Path) -> Iterator[None]:
    """Waits until no other process writes the run's files: ranks may outlive the command that started them, by seconds.

    Raises:
        RunError: another one still does after `WAIT_FOR_WRITER_S`.
    """
    with (run_dir / ".writer.lock").open("a") as file:
        deadline = time.monotonic() + WAIT_FOR_WRITER_S
        while not lock(file.fileno()):
            if time.monotonic() > deadline:
                raise RunError(
                    f"the ranks of an earlier start still write in {run_dir} after {WAIT_FOR_WRITER_S:g} s; end that "
                    "job (`ray list jobs`, `ray job stop ID`), then run the same command again"
                )
            time.sleep(0.2)
        yield


class Records:
    """Writes the run's files. What the run does not continue from is set aside first, once the ranks have its weights.

    Attributes:
        aside: the folder of what was set aside; None if nothing was.
    """

    def __init__(self, config: Config, plan: Plan, has_held_out: bool, resume: Resume) -> None:
        self._plan, run_dir = plan, Path(config.run.dir)
        kept_step = resume.kept_step(run_dir)
        aside = SetAside(run_dir, resume.step)
        resume.set_checkpoints_aside(run_dir, aside)
        self._skips = SkipList(
            run_dir / "skipped.jsonl", config.data.max_skipped_share, plan.state_dict()["num_questions"]
        )
        if kept_step < 0:
            self._skips.set_aside(aside)
        self._metrics = MetricsWriter(run_dir, config.telemetry.tensorboard, aside, kept_step)
        if kept_step < 0:
            set_identity_aside(run_dir, aside)
        write_config(config, aside)
        self.aside = aside.folder
        if resume.checkpoint:
            self._skips.load_state_dict(read_state(resume.checkpoint, plan)["skips"])
        pace = Pace(plan.num_steps, config.sft.validate_every)
        self._keeper = Keeper(run_dir, pace, config.checkpoint, resume, has_splits=has_held_out)

    @property
    def num_skipped(self) -> int:
        """Questions that cannot be used, so far."""
        return self._skips.num_skipped

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a row of metrics."""
        self._metrics.write(step, metrics)

    def count(self, planned: Sequence[Planned], unusable: Sequence[Unusable]) -> None:
        """Counts the examples that a step has tried, and lists those that cannot be used.

        Raises:
            TooManyUnusable: more of them than `data.max_skipped_share`.
        """
        questions = {p.example.question.id: p.example.question for p in planned}
        whole = {u.question_id for u in unusable if u.whole}
        for question in (questions[id] for id in questions if id not in whole):
            self._skips.used(question)
        for one in unusable:
            error = UserError(one.reason)
            if one.whole:
                self._skips.skipped(questions[one.question_id], error)
            else:
                self._skips.record(questions[one.question_id], error)

    def list_held_out(self, planned: Sequence[Planned], unusable: Sequence[Unusable]) -> None:
        """Lists held-out examples that cannot be used, without counting them."""
        questions = {p.example.question.id: p.example.question for p in planned}
        for one in unusable:
            self._skips.record(questions[one.question_id], UserError(one.reason))

    def is_due(self, step: int, score: float | None) -> bool:
        """Whether a step is to be saved, by the settings and its validation's score."""
        return self._keeper.is_due(step) or self._keeper.is_best(score)

    def save(self, step: int, score: float | None, save_learner: Callable[[Path], Awaitable[None]]) -> None:
        """Writes a checkpoint, in which `save_learner` writes the learner's part."""
        state: SftState = {"step": step, "sft": self._plan.state_dict(), "skips": self._skips.state_dict()}
        asyncio.run(self._keeper.save(step, dict(state), score, save_learner))

    def close(self) -> None:
        """Closes the metrics files."""
        self._metrics.close()
