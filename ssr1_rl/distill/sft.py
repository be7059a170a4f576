"""Supervised fine-tuning (SFT), from settings to a model that GRPO starts from: the command `ssr1-rl sft`.

Checks; ranks on Ray Train (`finetuning/ray.py`, `finetuning/rank.py`); the export; greedy accuracy on the validation
splits.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.actors.roster import Roster
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.distill.finetuning.checks import Checked, check_run, check_with_model
from ssr1_rl.distill.finetuning.export import EXPORT, export
from ssr1_rl.distill.finetuning.generate import greedy_accuracies
from ssr1_rl.distill.finetuning.messages import Began, Ended, Figures, Message, Note, Phase
from ssr1_rl.distill.finetuning.rank import SftJob
from ssr1_rl.distill.finetuning.ray import FOLDER as RAY_FOLDER
from ssr1_rl.distill.finetuning.ray import Desk, check_resources, fit, make_trainer
from ssr1_rl.errors import Interrupted, RunError
from ssr1_rl.faults.error_log import ErrorLog
from ssr1_rl.faults.signals import sigterm_asks, stopped, until_signal
from ssr1_rl.faults.stop import StopRequest
from ssr1_rl.faults.watchdog import Watchdog
from ssr1_rl.files import write_json
from ssr1_rl.store.checkpoints import list_checkpoints
from ssr1_rl.store.folder import changed_settings, claim
from ssr1_rl.telemetry.metrics import OnRow, read_metrics
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.telemetry.trackers.tracking import tracking

Summary = dict[str, float]
"""Figures of a finished run by name."""

FIGURES = {
    "train/loss": "loss {:.3f}",
    "learner/tokens_per_s": "{:,.0f} tokens/s",
    "train/learning_rate": "lr {:.1e}",
    "train/grad_norm": "grad norm {:.2f}",
    "time/step_s": "{:.1f} s",
}
"""Metrics shown for each step."""
POLL_S = 0.5
"""Longest wait for messages, after which signals and the end of the ranks are looked at."""


def run_sft(config: Config) -> Summary:
    """Starts or resumes the run that `config` describes, on the cluster that `ssr1_rl.connection.connect` finds.

    Returns:
        The figures that `summary.json` holds.

    Raises:
        Explained: something is wrong; the message says how to fix it. This and any other error that comes after the
            folder is claimed is written to error.log there.
        Interrupted: SIGINT, SIGTERM or run.max_time_s stopped the run.
    """
    stop = StopRequest(config.run.max_time_s)
    with sigterm_asks(stop):
        checked = check_run(config)
        run_dir = Path(config.run.dir)
        with claim(run_dir), contextlib.ExitStack() as display:
            progress = display.enter_context(Progress(checked.plan.num_steps, figures=FIGURES))
            errors = ErrorLog(run_dir, Roster(), progress.describe, partial(_how_to_resume, run_dir))
            with errors.keeps(Interrupted):
                for line in checked.notes:
                    progress.note(line)
                progress.phase("connecting to Ray")
                # A second time, inside: the log of an actor is fetched from its node while Ray is connected.
                with connected(errors.ray_says), errors.keeps(Interrupted):
                    summary = _train_on_ray(config, checked, stop, progress, errors)
                    display.close()  # the engines show their own progress
                    return summary | _accuracies(config, checked, summary)


def _train_on_ray(config: Config, checked: Checked, stop: StopRequest, progress: Progress, errors: ErrorLog) -> Summary:
    if not config.run.wait_for_resources_s:
        check_resources(config)
    if not checked.has_model:
        for line in check_with_model(config, checked.splits):
            progress.note(line)
    if list_checkpoints(Path(config.run.dir)):
        for line in changed_settings(config):
            progress.note(line)
    run = SftRun(config, checked, stop, progress)
    try:
        return asyncio.run(until_signal(run.run(errors), stop, progress.note))
    except asyncio.CancelledError:
        raise Interrupted(
            f"stopped; run the same command again to resume from the newest checkpoint in {config.run.dir}/checkpoints"
        ) from None


def _accuracies(config: Config, checked: Checked, summary: Summary) -> Summary:
    """The greedy accuracy on each split of `data.validation`, added to summary.json; empty if it is not wanted."""
    splits, run_dir = checked.splits.validation, Path(config.run.dir)
    if not splits:
        return {}
    note = Console(soft_wrap=True).print
    found = greedy_accuracies(config, run_dir / EXPORT, splits, partial(note, markup=False, highlight=False))
    accuracies = {f"accuracy_{split}": accuracy for split, accuracy in found.items()}
    write_json(run_dir / "summary.json", summary | accuracies)
    return accuracies


class RankFailure(Exception):
    """The traceback of an error in a rank's process, for error.log."""


class SftRun:
    """Follows the ranks of one run, and exports what they have made."""

    def __init__(self, config: Config, checked: Checked, stop: StopRequest, progress: Progress) -> None:
        self._config, self._checked, self._stop, self._progress = config, checked, stop, progress
        self._run_dir = Path(config.run.dir)
        self._ended: Ended | None = None
        self._heeding = contextlib.ExitStack()
        self._phase, self._since_s = "starting", time.monotonic()
        self._beat: Callable[[], None] = lambda: None
        self._track: OnRow = lambda step, metrics: None

    async def run(self, errors: ErrorLog) -> Summary:
        """Trains, and exports the model."""
        started = time.time()
        continues = bool(list_checkpoints(self._run_dir))
        self._progress.describe_waiting = self._waiting
        async with (
            Watchdog(self._config.telemetry.stall_warning_s, self._waiting, self._progress.note) as watchdog,
            tracking(self._config, continues, self._progress.note, Interrupted) as track,
        ):
            self._beat, self._track = watchdog.beat, track
            with self._heeding, errors.remembers_the_place():
                await self._train()
            assert self._ended is not None, "ranks that end without an error say so"
            if not self._ended.is_finished:
                raise stopped(self._config.run, self._ended.step, self._stop)
            self._progress.phase("exporting the model")
            folder = await in_thread(export, self._config)
            self._progress.note(f"the model is in {folder}")
        summary = summarise(self._run_dir, time.time() - started)
        write_json(self._run_dir / "summary.json", summary)
        return summary

    async def _train(self) -> None:
        examples = self._checked.examples
        job = SftJob(self._config, examples.train, examples.held_out)
        self._show(Phase("starting the ranks"))
        desk = Actor.create(Desk, {"num_cpus": 0})
        fitting = asyncio.ensure_future(in_thread(fit, make_trainer(job, desk), self._config))
        try:
            await self._follow(fitting, desk)
        except BaseException:
            # Ranks that still run end after their step; those of a cluster that this process has started end with it.
            desk.call(Desk.fail, RunError("the run has ended"))
            raise
        finally:
            fitting.cancel()
            with contextlib.suppress(OSError):  # not empty, or not there
                (self._run_dir / RAY_FOLDER).rmdir()

    async def _follow(self, fitting: asyncio.Future[None], desk: Actor[Desk]) -> None:
        """Shows messages until the ranks have ended, and passes on the wish to stop."""
        config, told, has_begun = self._config, False, False
        limit_s = time.monotonic() + config.learner.start_timeout_s + config.run.wait_for_resources_s
        is_over = False
        while not is_over:
            is_over = fitting.done()  # looked at first: what was sent before the end is taken below
            for message in await desk.call(Desk.take, 0.0 if is_over else POLL_S):
                self._show(message)
                has_begun = has_begun or isinstance(message, Began)
            if self._stop.asked and not told:
                await desk.call(Desk.ask_stop)
                told = True
            if not has_begun and time.monotonic() > limit_s:
                raise RunError(
                    f"the ranks have not started within learner.start_timeout_s={config.learner.start_timeout_s:g} s "
                    f"(they were {self._phase}); raise it, or see with `ray status` what they wait for"
                )
        failed = await desk.call(Desk.error)
        if failed is not None:
            raise failed[0] from RankFailure(failed[1])
        await fitting

    def _show(self, message: Message) -> None:
        if isinstance(message, Phase):
            self._phase, self._since_s = message.text, time.monotonic()
            self._progress.phase(message.text)
        elif isinstance(message, Note):
            self._progress.note(message.text)
        elif isinstance(message, Began):
            self._progress.resume_at(message.step)
            if not self._stop.heeded:
                self._heeding.enter_context(self._stop.heeding())
        elif isinstance(message, Figures):
            self._show_figures(message)
        else:
            self._ended = message
        self._beat()

    def _show_figures(self, figures: Figures) -> None:
        self._track(figures.step, figures.metrics)
        if figures.is_step:
            self._progress.step(figures.step, figures.metrics)
        else:
            metrics = figures.metrics
            num = int(metrics["validation/num_questions"])
            self._progress.validation("held out", "loss", metrics["validation/loss"], num, num)

    def _waiting(self) -> list[str]:
        num = self._config.learner.num_workers
        return [f"learner ({num} ranks): {self._phase} for {time.monotonic() - self._since_s:.0f} s"]


def _how_to_resume(run_dir: Path) -> str:
    """What the same command would do now."""
    saved = list_checkpoints(run_dir)
    if saved:
        return f"the same command resumes from {saved[-1].path}"
    return "the same command starts from the beginning, because no checkpoint was written yet"


def summarise(run_dir: Path, wall_s: float) -> Summary:
    """Computes the figures of a whole run from its metrics, steps before a resume included.

    Speeds are means over steps, not weighted by their duration; `wall_s` is the time of this process only.
    """
    rows = read_metrics(run_dir)
    steps = [row for row in rows if "time/step_s" in row]
    summary = {"num_steps": float(len(steps)), "wall_s": wall_s}
    for name, metric in (("tokens_per_s", "learner/tokens_per_s"), ("step_s", "time/step_s")):
        if steps:
            summary[name] = sum(row[metric] for row in steps) / len(steps)
    # A step of which nothing could be learned has no loss.
    if losses := [row["train/loss"] for row in steps if "train/loss" in row]:
        summary |= {"loss_first": losses[0], "loss_last": losses[-1]}
    if losses := [row["validation/loss"] for row in rows if "validation/loss" in row]:
        summary |= {"validation_loss_first": losses[0], "validation_loss_last": losses[-1]}
        summary["validation_loss_best"] = min(losses)
    return summary
