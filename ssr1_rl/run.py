"""Runs GRPO from settings to summary: checks, Ray, the actors, the loop, and a clean end."""

import asyncio
import contextlib
import time
from functools import partial
from pathlib import Path

from ssr1_rl.actors.waits import Waits
from ssr1_rl.checks.clips import check_clip_length
from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import Preflight, check_model, preflight
from ssr1_rl.checks.questions import check_prompts
from ssr1_rl.cluster import check_fits, make_plan
from ssr1_rl.config.presets import describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.connection import connected
from ssr1_rl.data.splits import Splits
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.errors import Interrupted, UserError
from ssr1_rl.faults.error_log import ErrorLog
from ssr1_rl.faults.signals import sigterm_asks, stopped, until_signal
from ssr1_rl.faults.stop import StopRequest
from ssr1_rl.faults.watchdog import Watchdog
from ssr1_rl.files import write_json
from ssr1_rl.grpo import Grpo
from ssr1_rl.rewards.load import check_reward
from ssr1_rl.store.checkpoints import list_checkpoints
from ssr1_rl.store.folder import changed_settings, claim, write_config
from ssr1_rl.store.resume import Resume, check_data, find_resume
from ssr1_rl.system import running_system
from ssr1_rl.telemetry.metrics import read_metrics
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.telemetry.trackers.tracking import tracking

Summary = dict[str, float | None]
"""Figures of a finished run by name; None if a run without steps has no such figure. Counts are ints."""


def run_grpo(config: Config, *, claimed: bool = False) -> Summary:
    """Starts or resumes the run that `config` describes, on the cluster that `ssr1_rl.connection.connect` finds.

    Args:
        config: the settings.
        claimed: whether the caller holds the run folder's lock.

    Returns:
        The figures that `summary.json` holds.

    Raises:
        Explained: something is wrong; the message says how to fix it. This and any other error that comes after the
            folder is claimed is written to error.log there.
        Interrupted: SIGINT, SIGTERM or run.max_time_s stopped the run; every actor has ended.
    """
    stop = StopRequest(config.run.max_time_s)
    with sigterm_asks(stop):
        return _checked_run(config, stop, claimed)


def _checked_run(config: Config, stop: StopRequest, claimed: bool) -> Summary:
    checked = preflight(config)
    for index, reward in enumerate(config.rewards):
        check_reward(reward, f"rewards[{index}]")
    waits = Waits()
    run_dir = Path(config.run.dir)
    lock = contextlib.nullcontext() if claimed else claim(run_dir)
    with lock, Progress(config.grpo.num_steps) as progress:
        errors = ErrorLog(run_dir, waits.actors, progress.describe, partial(_how_to_resume, run_dir))
        with errors.keeps(Interrupted):
            for line in describe_preset(config.grpo) + notes(config) + checked.notes:
                progress.note(line)
            progress.phase("connecting to Ray")
            # A second time, inside: the log of an actor is fetched from its node while Ray is connected.
            with connected(errors.ray_says), errors.keeps(Interrupted):
                return _run_on_ray(config, checked, stop, progress, waits, errors)


def _run_on_ray(
    config: Config, checked: Preflight, stop: StopRequest, progress: Progress, waits: Waits, errors: ErrorLog
) -> Summary:
    if not config.run.wait_for_resources_s:
        check_fits(make_plan(config))
    if not checked.examples:  # the model has to be downloaded, which the preflight does not do
        check_model(config.model, config.learner.prefix_packing)
        check_clip_length(config.data, config.model.path)
        for line in check_prompts(checked.splits, config)[1]:
            progress.note(line)
    resume = _find_resume(config, checked.splits, progress)
    run = _run(config, checked.splits, resume, stop, progress, waits, errors)
    try:
        return asyncio.run(until_signal(run, stop, progress.note))
    except asyncio.CancelledError:
        raise Interrupted(
            f"stopped; run the same command again to resume from the newest checkpoint in {config.run.dir}/checkpoints"
        ) from None


def _how_to_resume(run_dir: Path) -> str:
    """What the same command would do now."""
    saved = list_checkpoints(run_dir)
    if saved:
        return f"the same command resumes from {saved[-1].path}"
    return "the same command starts from the beginning, because no checkpoint was written yet"


def _find_resume(config: Config, splits: Splits, progress: Progress) -> Resume:
    """The checkpoint to continue from, verified, and checked to be of this data; changes nothing."""
    progress.phase("checking the checkpoint")
    resume = find_resume(config.run)
    for note in resume.notes:
        progress.note(note)
    if resume.checkpoint:
        check_data(resume.checkpoint, QuestionStream(splits.train.questions, config.run.seed))
        progress.resume_at(resume.step)
        progress.note(f"resuming from {resume.checkpoint.path}")
        for change in changed_settings(config):
            progress.note(change)
    elif last_step := _last_step(Path(config.run.dir)):
        progress.note(
            f"{config.run.dir}/metrics.jsonl holds step {last_step}, but {config.run.dir}/checkpoints holds no "
            "checkpoint; starting from the beginning. If it should hold one, stop the run, and mount its disk"
        )
    return resume


def _last_step(run_dir: Path) -> int:
    """The last step in metrics.jsonl, 0 if there is none, or if the file cannot be used."""
    try:
        return max((int(row["step"]) for row in read_metrics(run_dir)), default=0)
    except (OSError, UserError):
        return 0


async def _run(
    config: Config,
    splits: Splits,
    resume: Resume,
    stop: StopRequest,
    progress: Progress,
    waits: Waits,
    errors: ErrorLog,
) -> Summary:
    started = time.time()
    progress.describe_waiting = waits.describe
    async with (
        Watchdog(config.telemetry.stall_warning_s, waits.describe, progress.note) as watchdog,
        tracking(config, resume.kept_step(Path(config.run.dir)) >= 0, progress.note, Interrupted) as track,
        running_system(config, splits.max_clips, waits, progress.phase) as system,
    ):
        progress.note(f"attention of the learners: {system.learners.attention}")
        validation = {name: split.questions for name, split in splits.validation.items()}
        grpo = Grpo(config, system, splits.train.questions, validation, progress, resume, stop, watchdog.beat, track)
        try:
            with errors.remembers_the_place():
                aside = await grpo.start()
                write_config(config, aside)
                if aside.folder:
                    progress.note(f"what this start does not continue from is kept in {aside.folder}")
                is_finished = await grpo.run()
        finally:
            grpo.close()
        if not is_finished:
            raise stopped(config.run, grpo.step, stop)
    summary = summarise(Path(config.run.dir), list(splits.validation), time.time() - started)
    write_json(Path(config.run.dir) / "summary.json", summary)
    return summary


def summarise(run_dir: Path, splits: list[str], wall_s: float) -> Summary:
    """Computes the figures of a whole run from its metrics, steps before a resume included.

    accuracy_before_grpo is the first split's score at step 0, accuracy_after_grpo that of the last step; the same for
    each split by its name. They are named reward_… if the run has no reward `accuracy`, and are absent if that step was
    not validated.

    Speeds are means over steps, not weighted by their duration; `wall_s` is the time of this process only.
    """
    rows = read_metrics(run_dir)
    steps = [row for row in rows if "time/step_s" in row]

    def mean(name: str) -> float | None:
        return sum(row[name] for row in steps) / len(steps) if steps else None

    last_step = max((int(row["step"]) for row in steps), default=0)
    summary: Summary = {}
    for split in splits:
        for when, step in (("before", 0), ("after", last_step)):
            figures = [row for row in rows if row["step"] == step and f"validation/{split}/score" in row]
            if figures and (when == "before" or steps):
                measure = "accuracy" if f"validation/{split}/accuracy" in figures[-1] else "reward"
                summary[f"{measure}_{when}_grpo_{split}"] = figures[-1][f"validation/{split}/score"]
    for name in list(summary):
        if name.endswith(f"_grpo_{splits[0]}"):
            summary[name.removesuffix(f"_{splits[0]}")] = summary[name]
    return summary | {
        "num_steps": len(steps),
        "wall_s": wall_s,
        "samples_per_s": mean("samples_per_s"),
        "rollout_tokens_per_s": mean("rollout/tokens_per_s"),
        "learner_tokens_per_s": mean("learner/tokens_per_s"),
        "logprob_abs_diff_mean": mean("train/logprob_abs_diff_mean"),
        "logprob_abs_diff_max": max((row["train/logprob_abs_diff_max"] for row in steps), default=None),
        "step_s": mean("time/step_s"),
        "rollout_wait_s": mean("time/rollout_wait_s"),
        "update_s": mean("time/update_s"),
        "sync_s": mean("time/sync_s"),
    }
