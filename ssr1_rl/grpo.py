"""The GRPO loop: who waits for whom, and what unblocks it.

    who          waits for                             unblocked by
    the loop     feed.take: a step's groups            the oldest groups admitted, when the last of them is scored
      then       learners.reference_kl                 every rank; only if the KL penalty is part of the reward
      then       learners.update                       every rank; they also wait for each other in each pass
      then       system.sync_weights                   ranks, which send, and engines, which receive, side by side
    a group      a place in the feed                   the take after feed.trained; a group that failed or was replaced
      then       pool: the worker with the least work  its responses' last tokens; a sync only pauses it
      then       every reward function, side by side   an actor that is free, then its rewards

The feed has (max_staleness + 1) x questions_per_step places, and a group keeps its place until `feed.trained`. So with
max_staleness 0 generation and training alternate; with k, generation runs up to k policy versions ahead. One loop
serves both. Waits for actors are named in `Waits`; the first error of a group, an engine or a rank ends the run, also
if the loop waits for something else. Only an update and a checkpoint are finished first, unless the learners fail.

A step is saved before it is validated, so a validation that is killed loses none; its score then joins the checkpoint.
If anything but the learners fails, the newest step is saved before the run ends: before the update that is the last
one, from then on the one that the update makes. Nothing in the run's folder changes before engines and learners are up
and have the checkpoint's weights.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.algorithm.adaptive_kl import KlCoefficient
from ssr1_rl.algorithm.step_batch import mean_kl, nothing_in_loss, train_group, with_advantages
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.skipped import SkipList
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.evaluation.validation import evaluate
from ssr1_rl.faults.first_error import learners_answer, watching
from ssr1_rl.faults.guards import check_logprobs, check_rollout_logprobs, check_update
from ssr1_rl.faults.no_signal import NoSignal
from ssr1_rl.faults.stop import StopRequest
from ssr1_rl.files import SetAside
from ssr1_rl.probe import SyncProbe
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.feed import GroupFeed, Result
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.store.checkpoints import Checkpoint, ControllerState
from ssr1_rl.store.folder import set_identity_aside
from ssr1_rl.store.keeper import Keeper
from ssr1_rl.store.resume import Resume
from ssr1_rl.system import System
from ssr1_rl.telemetry.metrics import MetricsWriter, OnRow
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.telemetry.samples import SampleWriter
from ssr1_rl.telemetry.step_metrics import NotTrained, StepClock, step_metrics
from ssr1_rl.types import Question, ScoredGroup, TrainGroup


class Grpo:
    """One run's controller.

    Args:
        on_progress: called when a group is scored, a validation question is answered, or a step is done.
        on_metrics: gets every row of metrics, for trackers.

    Attributes:
        step: steps done so far; equals the policy version.
    """

    def __init__(
        self,
        config: Config,
        system: System,
        train: Sequence[Question],
        validation: Mapping[str, Sequence[Question]],
        progress: Progress,
        resume: Resume,
        stop: StopRequest,
        on_progress: Callable[[], None],
        on_metrics: OnRow | None = None,
    ) -> None:
        self._config, self._system, self._progress = config, system, progress
        self._validation, self._resume, self._stop, self._on_progress = validation, resume, stop, on_progress
        self._run_dir = Path(config.run.dir)
        self.step = resume.step
        self._preparer = Preparer(PromptBuilder(config.model.path, config.data), config.data, system.waits)
        self._skips = SkipList(self._run_dir / "skipped.jsonl", config.data.max_skipped_share, len(train))
        self._sampling = Sampling.of_training(config.rollout, config.grpo.group_size, config.run.seed)
        stream = QuestionStream(train, config.run.seed)
        self._feed = GroupFeed(
            stream, self._preparer, system.pool, system.rewards, self._sampling, config.grpo, self._skips
        )
        self._feed.on_group = on_progress
        self._probe = SyncProbe(system.pool, system.learners, self._sampling)
        self._kl = KlCoefficient(config.grpo)
        self._kl_in_reward = config.grpo.kl_coefficient > 0 and config.grpo.kl_placement != "loss"
        self._keeper = Keeper(self._run_dir, config.grpo, config.checkpoint, resume, has_splits=bool(validation))
        within_groups = config.grpo.baseline in ("group_mean", "leave_one_out")
        self._no_signal = NoSignal(config.rewards, within_groups, config.rollout.max_response_tokens)
        self._weights_checked = not config.guard.check_weights
        self._metrics: MetricsWriter | None = None
        self._on_metrics = on_metrics

    async def start(self) -> SetAside:
        """Loads the checkpoint, if there is one; then sets aside what the run does not continue from.

        Returns:
            Where that is now.
        """
        if self._resume.checkpoint:
            async with watching(self._system.engine_lost()) as first_error:
                await first_error.during(self._load(self._resume.checkpoint))
        kept_step = self._resume.kept_step(self._run_dir)
        aside = SetAside(self._run_dir, self.step)
        await in_thread(self._resume.set_checkpoints_aside, self._run_dir, aside)
        self._samples = SampleWriter(self._run_dir)
        self._samples.set_aside_after(kept_step, aside)
        if kept_step < 0:
            self._skips.set_aside(aside)
        revalidates = self._keeper.lacks_validation(self.step)
        self._metrics = MetricsWriter(self._run_dir, self._config.telemetry.tensorboard, aside, kept_step, revalidates)
        self._metrics.on_row = self._on_metrics
        if kept_step < 0:
            set_identity_aside(self._run_dir, aside)
        return aside

    async def run(self) -> bool:
        """Trains until `grpo.num_steps`, or until a stop is asked for; either way the last step is saved.

        Every call makes at least one step, or the validation that is left after the last one, also if the stop was
        asked for before: else a run whose starts take longer than its time slices would never end.

        Returns:
            Whether the run is finished.
        """
        # An engine that is lost, or a group that fails, ends anything at once but an update and a checkpoint.
        with self._stop.heeding():
            async with watching(self._feed.failed(), self._system.engine_lost()) as self._first_error:
                await self._validate_at_start()
                while not self._keeper.is_last(self.step):
                    await self._train_one_step()
                    if await self._stops_after_step():
                        break
        return self._keeper.is_last(self.step) and not self._keeper.lacks_validation(self.step)

    async def _validate_at_start(self) -> None:
        """Validates the untrained policy, or the checkpoint if an earlier process was stopped before it could."""
        if not self.step and self._config.grpo.validate_first:
            await self._stop.unless_signalled(self._validate())
        elif self._keeper.lacks_validation(self.step):
            await self._keeper.begin_revalidation()
            is_last = self._keeper.is_last(self.step)
            score = await (self._validate() if is_last else self._stop.unless_signalled(self._validate()))
            await self._keeper.add_score(score)

    async def _stops_after_step(self) -> bool:
        """Saves and validates what is due; a stop may be asked for at any time, and then the step is saved."""
        await self._save_and_validate()
        if not self._stop.asked:
            return False
        if not self._keeper.is_saved(self.step):
            await self._save(None)
        return True

    async def _save_and_validate(self) -> None:
        if self._keeper.is_due(self.step) or self._stop.asked:
            await self._save(None)
        if not self._keeper.is_validated(self.step) or self._stop.asked:
            return
        async with self._saved_on_error():
            score = await self._stop.unless_signalled(self._validate())
        if self._keeper.is_saved(self.step):
            await self._keeper.add_score(score)
        elif self._keeper.is_best(score) or self._stop.asked:
            await self._save(score)

    async def _train_one_step(self) -> None:
        clock = StepClock(self._system.pool)
        self._progress.phase("rollouts")
        async with self._saved_on_error():
            taken = await self._first_error.during(self._feed.take(self._config.grpo.questions_per_step))
            clock.lap("rollout_wait_s")
            batch, probed, kl_metrics = await self._first_error.during(self._prepared(taken))
        clock.lap("advantages_s")
        metrics = await self._first_error.finishing(self._update(batch, probed, kl_metrics), self._tell_of_update)
        clock.lap("update_s")
        done = partial(self._step_is_done, [scored for scored, _ in taken], batch, metrics, clock)
        # A learner may wait for a lost engine in the broadcast for ever, so the save is not waited for for ever either.
        async with self._saved_on_error(done, self._config.rollout.sync_timeout_s):
            try:
                await self._first_error.during(self._sync(self.step + 1))
            finally:
                clock.lap("sync_s")
        if self._config.grpo.max_staleness:
            self._probe.start(taken[-1][1], self.step + 1)
        async with self._saved_on_error():
            done()

    async def _prepared(self, taken: Sequence[Result]) -> tuple[list[TrainGroup], dict[str, float], dict[str, float]]:
        """The groups with their advantages, the probe's figures, and those of the KL term; changes no weights."""
        self._progress.phase("update")
        probed = await self._probe.finish()
        check_logprobs(probed, self._config.guard, self.step)
        scored = [scored for scored, _ in taken]
        check_rollout_logprobs(scored, self._config.guard, self.step + 1)
        batch, kl_metrics = await self._batch([train_group(s, p, self._config.grpo) for s, p in taken], scored)
        return batch, probed, kl_metrics

    async def _update(
        self, batch: Sequence[TrainGroup], probed: dict[str, float], kl_metrics: dict[str, float]
    ) -> dict[str, float]:
        """Makes one step of the policy and checks it. Without comparable tokens its figures are those of the probe."""
        metrics = await self._system.learners.update(batch, self._kl.value) | kl_metrics
        check_update(metrics, self._config.guard, self.step + 1)
        if "kl_to_reference" in metrics:
            self._kl.observe(metrics["kl_to_reference"])
        return metrics if metrics["comparable_tokens"] else metrics | probed

    def _tell_of_update(self, error: Exception) -> None:
        self._progress.note(f"{error}; finishing the update and saving it, then the run ends")

    async def _batch(
        self, groups: Sequence[TrainGroup], scored: Sequence[ScoredGroup]
    ) -> tuple[list[TrainGroup], dict[str, float]]:
        """The groups with their advantages, and the metrics of the KL term."""
        kl = await self._system.learners.reference_kl(groups) if self._kl_in_reward else []
        batch = with_advantages(
            groups,
            scored,
            self._config.grpo,
            self._config.rollout.max_response_tokens,
            kl,
            self._kl.value,
            self._system.rewards.weights,
        )
        measured = {"kl_to_reference": mean_kl(kl)} if kl else {}
        return batch, measured | {"kl_coefficient": self._kl.value}

    async def _sync(self, policy_version: int) -> None:
        self._progress.phase("weight sync")
        await self._system.sync_weights(policy_version, audit=not self._weights_checked)
        self._weights_checked = True

    def _step_is_done(
        self,
        scored: Sequence[ScoredGroup],
        batch: Sequence[TrainGroup],
        learner_metrics: Mapping[str, float],
        clock: StepClock,
    ) -> None:
        """Counts the step that the update has made, and writes its metrics and samples."""
        self._feed.trained()
        self.step += 1
        not_trained = NotTrained(
            self._feed.num_replaced, self._feed.reached_limit, self._feed.num_failed, self._skips.num_skipped
        )
        metrics = step_metrics(scored, batch, learner_metrics, clock, self.step, not_trained)
        self._write(metrics)
        if self._config.telemetry.samples:
            self._samples.write(self.step, self.step - 1, scored, [g.advantages_G for g in batch])
        self._progress.step(self.step, metrics)
        if not learner_metrics["trained_tokens"]:
            self._progress.note(nothing_in_loss(self.step, self._config.grpo))
        for line in self._no_signal.record(scored):
            self._progress.note(line)
        self._on_progress()

    def _write(self, metrics: Mapping[str, float]) -> None:
        assert self._metrics is not None, "start has returned"
        self._metrics.write(self.step, metrics)

    async def _validate(self) -> float | None:
        """Scores every validation split; returns the first one's score, None without splits."""
        return await self._first_error.during(self._scores())

    async def _scores(self) -> float | None:
        scores: list[float] = []
        for name, questions in self._validation.items():
            self._progress.phase(f"validating {name}")
            result = await evaluate(
                questions,
                self._preparer,
                self._system.pool,
                self._system.rewards,
                self._sampling.greedy(),
                self._skips,
                self._config.grpo.max_unscored_share,
                on_progress=partial(self._answered, name, len(questions)),
            )
            scores.append(result.score)
            self._write({f"validation/{name}/{figure}": value for figure, value in result.metrics().items()})
            self._progress.validation(name, result.measure, result.score, result.num_questions, len(questions))
        return scores[0] if scores else None

    def _answered(self, split: str, num_questions: int, num_done: int) -> None:
        self._progress.phase(f"validating {split} {num_done}/{num_questions}")
        self._on_progress()

    async def _save(self, score: float | None) -> None:
        self._progress.phase("checkpoint")
        state: ControllerState = {
            "step": self.step,
            "feed": self._feed.state_dict(),
            "skips": self._skips.state_dict(),
            "kl_coefficient": self._kl.value,
        }
        await self._keeper.save(self.step, state, score, self._system.learners.save)

    @contextlib.asynccontextmanager
    async def _saved_on_error(
        self, before: Callable[[], None] = lambda: None, limit_s: float | None = None
    ) -> AsyncIterator[None]:
        """Calls `before` and saves the newest step before an error ends the run, unless the learners do not answer.

        The save is ended after `limit_s`.
        """
        try:
            yield
        except Exception as first:
            try:
                before()
                if self.step and not self._keeper.is_saved(self.step) and learners_answer(first):
                    async with asyncio.timeout(limit_s):
                        await self._save(None)
            except Exception as error:
                why = f"not within {limit_s:g} s" if limit_s and isinstance(error, TimeoutError) else error
                self._progress.note(f"step {self.step} could not be saved before the run ends: {why}")
            raise

    async def _load(self, checkpoint: Checkpoint) -> None:
        self._progress.phase("loading the checkpoint")
        state = checkpoint.controller_state()
        self._feed.load_state_dict(state["feed"])
        if "skips" in state:
            self._skips.load_state_dict(state["skips"])
        self._kl.resume(state["kl_coefficient"])
        version = await self._system.learners.load(checkpoint.learner.absolute())
        assert version == self.step, "a step is one policy version"
        await self._sync(version)

    def close(self) -> None:
        """Cancels the groups in flight and closes the metrics files."""
        # Rewards first: they would replace an actor whose group is cancelled.
        self._system.rewards.shutdown()
        self._feed.close()
        self._probe.close()
        if self._metrics is not None:
            self._metrics.close()
