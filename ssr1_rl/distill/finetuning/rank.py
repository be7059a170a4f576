"""One rank's run of SFT. Every rank makes the same steps; rank 0 keeps the files and decides what is saved.

    every rank          its share of the step's examples, decoded ahead in a thread
      update            a collective: forward and backward passes, one optimizer step
      validation loss   a collective, if it is due
    rank 0              writes the metrics; tells all ranks whether the step is saved, and whether the run ends with it
      checkpoint        a collective

Needs no Ray: `finetuning/ray.py` runs it in Ray Train's workers, `finetuning/alone.py` in this process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch.distributed as dist

from ssr1_rl.config.schema import Config
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.distill.finetuning.learner import SftLearner
from ssr1_rl.distill.finetuning.loader import ExamplePreparer, Loader, PreparerOf, Unusable, hearing
from ssr1_rl.distill.finetuning.messages import Began, Ended, Figures, Note, Outlet, Phase
from ssr1_rl.distill.finetuning.plan import Plan, Planned
from ssr1_rl.distill.finetuning.records import Records, read_state, sole_writer
from ssr1_rl.store.resume import Resume, find_resume
from ssr1_rl.trainer.batches.balance import share_evenly
from ssr1_rl.trainer.deepspeed_setup import RankSpec
from ssr1_rl.trainer.learner_state import load_learner, save_learner

HELD_OUT_AT_ONCE = 8
"""Held-out examples that a rank prepares for one round of passes, in steps: more would hold all their clips."""


@dataclass(frozen=True)
class SftJob:
    """What every rank gets."""

    config: Config
    train: Sequence[Example]
    held_out: Sequence[Example]
    preparer_of: PreparerOf = hearing  # another one for a model that sees
    is_restart: bool = False  # whether this command's ranks have run before, and died


class SftRank:
    """Runs SFT on one rank."""

    def __init__(self, spec: RankSpec, job: SftJob, outlet: Outlet) -> None:
        self._spec, self._job, self._outlet = spec, job, outlet
        self._config = job.config
        self._plan = Plan(job.train, job.config.sft, job.config.run.seed)

    def run(self) -> None:
        """Trains from the newest checkpoint to the last step, or until a stop is asked for; a collective.

        Raises:
            UserError: the checkpoint belongs to another plan or model, or too much of the data cannot be used.
            GuardTripped: a loss or gradient is not finite.
        """
        is_main, run_dir = self._spec.rank == 0, Path(self._config.run.dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        with sole_writer(run_dir) if is_main else contextlib.nullcontext():
            self._run()

    def _run(self) -> None:
        config, spec = self._config, self._spec
        self._outlet.tell(Phase("loading the policy"))
        self._learner = SftLearner(spec, config.model, config.learner, config.run.seed)
        self._outlet.tell(Note(f"attention of the learners: {self._learner.attention}"))
        resume = self._resume()
        self._records = Records(config, self._plan, bool(self._job.held_out), resume) if spec.rank == 0 else None
        if self._records and self._records.aside:
            self._outlet.tell(Note(f"what this start does not continue from is kept in {self._records.aside}"))
        questions = self._job.preparer_of(config, spec.world_size)
        positions = getattr(self._learner.policy.backbone.config, "max_position_embeddings", 2**31)
        preparer = ExamplePreparer(questions, config, positions)
        try:
            with Loader(preparer, self._share, self._plan.num_steps) as self._loader:
                self._train(resume.step)
        finally:
            if self._records:
                self._records.close()

    def _resume(self) -> Resume:
        """The checkpoint to continue from, which rank 0 finds and verifies, loaded on every rank."""
        found: list[Resume | None] = [None]
        if self._spec.rank == 0:
            self._outlet.tell(Phase("checking the checkpoint"))
            run = self._config.run
            if self._job.is_restart and run.resume == "never":
                run = replace(run, resume="auto")  # the folder holds this command's own run
            found = [find_resume(run)]
        dist.broadcast_object_list(found)
        [resume] = found
        assert resume is not None, "rank 0 has found it"
        for note in resume.notes:
            self._outlet.tell(Note(note))
        if resume.checkpoint:
            read_state(resume.checkpoint, self._plan)
            self._outlet.tell(Note(f"resuming from {resume.checkpoint.path}"))
            self._outlet.tell(Phase("loading the checkpoint"))
            load_learner(self._learner, resume.checkpoint.learner.absolute())
            assert self._learner.policy_version == resume.step, "a step is one policy version"
        return resume

    def _train(self, start: int) -> None:
        step, is_finished = start, start >= self._plan.num_steps
        self._outlet.tell(Began(start))
        if not start:
            self._validate(0)
        while not is_finished:
            step += 1
            self._make_step(step)
            score = self._validate(step) if self._is_validated(step) else None
            is_finished = step >= self._plan.num_steps
            is_saved, is_stopped = self._decide(step, score)
            if is_saved:
                self._save(step, score)
            if is_stopped:
                break
        self._outlet.tell(Ended(step, is_finished))

    def _make_step(self, step: int) -> None:
        started = time.monotonic()
        prepared = self._loader.take(step)
        waited_s = time.monotonic() - started
        made = self._learner.update(prepared.groups, self._plan.num_steps, unusable=float(len(prepared.unusable)))
        update_s = time.monotonic() - started - waited_s
        unusable = self._gathered(prepared.unusable) if made.pop("unusable") else []
        if self._records is None:
            return
        planned = self._plan.step(step)
        self._records.count(planned, unusable)
        metrics = {
            "data/epoch": float(planned[-1].epoch),
            "data/skipped_questions": float(self._records.num_skipped),
            "learner/tokens_per_s": made.get("row_tokens", 0.0) / update_s,
            "learner/computed_tokens_per_s": made.get("computed_tokens", 0.0) / update_s,
            "time/data_wait_s": waited_s,
            "time/update_s": update_s,
            "time/step_s": time.monotonic() - started,
            **{f"train/{name}": value for name, value in made.items()},
        }
        self._records.write(step, metrics)
        self._outlet.tell(Figures(step, metrics))

    def _share(self, step: int) -> list[Planned]:
        return self._plan.share(step, self._spec.rank, self._spec.world_size)

    def _gathered(self, unusable: Sequence[Unusable]) -> list[Unusable]:
        """What every rank could not use; a collective."""
        found: list[list[Unusable]] = [[] for _ in range(self._spec.world_size)]
        dist.all_gather_object(found, list(unusable))
        return [one for of_rank in found for one in of_rank]

    def _is_validated(self, step: int) -> bool:
        every = self._config.sft.validate_every
        return every > 0 and (step % every == 0 or step >= self._plan.num_steps)

    def _validate(self, step: int) -> float | None:
        """The score of the policy, its loss on the held-out examples times -1; None without any. A collective."""
        if not self._job.held_out or not self._config.sft.validate_every:
            return None
        self._outlet.tell(Phase("validation loss"))
        started = time.monotonic()
        total: dict[str, float] = {}
        planned = [Planned(0, example) for example in self._job.held_out]
        size = HELD_OUT_AT_ONCE * self._config.sft.questions_per_step
        for first in range(0, len(planned), size):
            for name, value in self._validate_part(planned[first : first + size]).items():
                total[name] = total.get(name, 0.0) + value
        self._outlet.tell(Phase("update"))
        if not total["tokens"]:
            return None
        loss = -total["logprob"] / total["tokens"]
        if self._records:
            metrics = {
                "validation/loss": loss,
                "validation/num_questions": total["questions"],
                "time/validation_s": time.monotonic() - started,
            }
            self._records.write(step, metrics)
            self._outlet.tell(Figures(step, metrics, is_step=False))
        return -loss

    def _validate_part(self, planned: Sequence[Planned]) -> dict[str, float]:
        share = share_evenly(planned, self._spec.world_size, lambda one: one.cost)[self._spec.rank]
        prepared = self._loader.prepare(share)
        found = self._learner.validate(prepared.groups, unusable=float(len(prepared.unusable)))
        if found.pop("unusable"):
            unusable = self._gathered(prepared.unusable)
            if self._records:
                self._records.list_held_out(planned, unusable)
        return found

    def _decide(self, step: int, score: float | None) -> tuple[bool, bool]:
        """Whether the step is saved, and whether the run ends with it, as rank 0 decides; a collective."""
        decision = [False, False]
        if self._records:
            is_stopped = self._outlet.stop_asked()
            decision = [self._records.is_due(step, score) or is_stopped, is_stopped]
        dist.broadcast_object_list(decision)
        return decision[0], decision[1]

    def _save(self, step: int, score: float | None) -> None:
        self._outlet.tell(Phase("checkpoint"))
        if self._records:
            self._records.save(step, score, self._write_learner)
        else:
            save_learner(self._learner, Path())  # gathers; rank 0 writes
        self._outlet.tell(Phase("update"))

    async def _write_learner(self, folder: Path) -> None:
        save_learner(self._learner, folder)
