"""The GRPO loop: who waits for whom, and what unblocks it.

    who          waits for                             unblocked by
    the loop     feed.take: a step's groups            the oldest groups admitted, when the last of them is scored
      then       learners.reference_kl                 every rank; only if the KL penalty is part of the reward
      then       learners.update                       every rank; they also wait for each other in each pass
      then       system.sync_weights                   ranks, which send, and engines, which receive, side by side
    a group      a place in the feed                   feed.trained, or a group that failed or was replaced
      then       pool: the worker with the least work  its responses' last tokens; a sync only pauses it
      then       every reward function, side by side   an actor that is free, then its rewards

The feed has (max_staleness + 1) x questions_per_step places, and a group keeps its place until `feed.trained`. So with
max_staleness 0 generation and training alternate; with k, generation runs up to k policy versions ahead. One loop
serves both. Waits for actors are named in `Waits`; the first error of an engine or a rank ends the run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from ssr1_rl.algorithm.adaptive_kl import KlCoefficient
from ssr1_rl.algorithm.step_batch import mean_kl, nothing_in_loss, train_group, with_advantages
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.skipped import SkipList
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.evaluate import evaluate
from ssr1_rl.faults.guards import check_logprobs, check_rollout_logprobs, check_update
from ssr1_rl.faults.no_signal import NoSignal
from ssr1_rl.probe import SyncProbe
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.feed import GroupFeed
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.store.checkpoints import Checkpoint, CheckpointStore, ControllerState
from ssr1_rl.system import System
from ssr1_rl.telemetry.metrics import MetricsWriter
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.telemetry.samples import SampleWriter
from ssr1_rl.telemetry.step_metrics import NotTrained, StepClock, step_metrics
from ssr1_rl.types import Question, ScoredGroup, TrainGroup


class Grpo:
    """One run's controller.

    Args:
        on_progress: called when a group is scored, a validation question is answered, or a step is done.

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
        resume_from: Checkpoint | None,
        on_progress: Callable[[], None],
    ) -> None:
        self._config, self._system, self._progress = config, system, progress
        self._validation, self._resume_from, self._on_progress = validation, resume_from, on_progress
        run_dir = Path(config.run.dir)
        self.step = resume_from.step if resume_from else 0
        self._preparer = Preparer(PromptBuilder(config.model.path, config.data), config.data)
        self._skips = SkipList(run_dir / "skipped.jsonl", config.data.max_skipped_share, len(train))
        self._sampling = Sampling.of_training(config.rollout, config.grpo.group_size, config.run.seed)
        stream = QuestionStream(train, config.run.seed)
        self._feed = GroupFeed(
            stream, self._preparer, system.pool, system.rewards, self._sampling, config.grpo, self._skips
        )
        self._feed.on_group = on_progress
        self._probe = SyncProbe(system.pool, system.learners, self._sampling)
        self._kl = KlCoefficient(config.grpo)
        self._kl_in_reward = config.grpo.kl_coefficient > 0 and config.grpo.kl_placement != "loss"
        self._metrics = MetricsWriter(run_dir, config.telemetry.tensorboard, self.step)
        self._samples = SampleWriter(run_dir)
        self._samples.drop_after(self.step)
        self._store = CheckpointStore(run_dir, config.checkpoint)
        self._store.drop_after(self.step)
        within_groups = config.grpo.baseline in ("group_mean", "leave_one_out")
        self._no_signal = NoSignal(config.rewards, within_groups, config.rollout.max_response_tokens)
        self._weights_checked = not config.guard.check_weights

    async def run(self) -> None:
        """Trains until `grpo.num_steps`, from the checkpoint if there is one."""
        grpo = self._config.grpo
        if self._resume_from:
            await self._resume(self._resume_from)
        elif grpo.validate_first:
            await self._validate()
        while self.step < grpo.num_steps:
            await self._train_one_step()
            last = self.step == grpo.num_steps
            score = None
            if grpo.validate_every and (last or self.step % grpo.validate_every == 0):
                score = await self._validate()
            if last or self.step % self._config.checkpoint.every == 0 or self._is_best(score):
                await self._save(score)

    async def _train_one_step(self) -> None:
        clock = StepClock(self._system.pool)
        self._progress.phase("rollouts")
        taken = await self._feed.take(self._config.grpo.questions_per_step)
        clock.lap("rollout_wait_s")
        self._progress.phase("update")
        probed = await self._probe.finish()
        check_logprobs(probed, self._config.guard, self.step)
        scored = [scored for scored, _ in taken]
        check_rollout_logprobs(scored, self._config.guard, self.step + 1)
        batch, kl_metrics = await self._batch([train_group(s, p, self._config.grpo) for s, p in taken], scored)
        clock.lap("advantages_s")
        learner_metrics = await self._system.learners.update(batch, self._kl.value) | kl_metrics
        if "kl_to_reference" in learner_metrics:
            self._kl.observe(learner_metrics["kl_to_reference"])
        clock.lap("update_s")
        check_update(learner_metrics, self._config.guard, self.step + 1)
        if not learner_metrics["comparable_tokens"]:
            learner_metrics |= probed
        self._progress.phase("weight sync")
        await self._sync(self.step + 1)
        clock.lap("sync_s")
        if self._config.grpo.max_staleness:
            self._probe.start(taken[-1][1], self.step + 1)
        self._feed.trained()
        self.step += 1
        self._record(scored, batch, learner_metrics, clock)

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
        await self._system.sync_weights(policy_version, audit=not self._weights_checked)
        self._weights_checked = True

    def _record(
        self,
        scored: Sequence[ScoredGroup],
        batch: Sequence[TrainGroup],
        learner_metrics: Mapping[str, float],
        clock: StepClock,
    ) -> None:
        not_trained = NotTrained(
            self._feed.num_replaced, self._feed.reached_limit, self._feed.num_failed, self._skips.num_skipped
        )
        metrics = step_metrics(scored, batch, learner_metrics, clock, self.step, not_trained)
        self._metrics.write(self.step, metrics)
        if self._config.telemetry.samples:
            self._samples.write(self.step, self.step - 1, scored, [g.advantages_G for g in batch])
        self._progress.step(self.step, metrics)
        if not learner_metrics["trained_tokens"]:
            self._progress.note(nothing_in_loss(self.step, self._config.grpo))
        for line in self._no_signal.record(scored):
            self._progress.note(line)
        self._on_progress()

    async def _validate(self) -> float | None:
        """Scores every validation split; returns the first one's score, None without splits."""
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
                on_progress=partial(self._answered, name, len(questions)),
            )
            scores.append(result.score)
            self._metrics.write(
                self.step, {f"validation/{name}/{figure}": value for figure, value in result.metrics().items()}
            )
            self._progress.validation(name, result.score, result.num_questions)
        return scores[0] if scores else None

    def _answered(self, split: str, num_questions: int, num_done: int) -> None:
        self._progress.phase(f"validating {split} {num_done}/{num_questions}")
        self._on_progress()

    def _is_best(self, score: float | None) -> bool:
        if score is None or not self._config.checkpoint.keep_best:
            return False
        best = self._store.best()
        return best is None or best.score is None or score > best.score

    async def _save(self, score: float | None) -> None:
        self._progress.phase("checkpoint")
        feed = self._feed.state_dict()
        state: ControllerState = {"step": self.step, "feed": feed, "kl_coefficient": self._kl.value}
        await self._store.save(self.step, state, score, self._system.learners.save)

    async def _resume(self, checkpoint: Checkpoint) -> None:
        self._progress.phase("loading the checkpoint")
        state = checkpoint.controller_state()
        self._feed.load_state_dict(state["feed"])
        self._kl.resume(state["kl_coefficient"])
        version = await self._system.learners.load(checkpoint.learner.absolute())
        assert version == self.step, "a step is one policy version"
        await self._sync(version)

    def close(self) -> None:
        """Cancels the groups in flight and closes the metrics files."""
        self._feed.close()
        self._probe.close()
        self._metrics.close()
