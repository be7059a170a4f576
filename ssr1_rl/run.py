"""Runs GRPO from settings to summary: checks, Ray, the actors, the loop, and a clean end."""

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path

from ssr1_rl.actors.waits import Waits
from ssr1_rl.checks.clips import check_clip_length
from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import check_model, preflight
from ssr1_rl.checks.questions import check_prompts
from ssr1_rl.cluster import check_fits, connect, make_plan
from ssr1_rl.config.presets import describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import Splits
from ssr1_rl.faults.watchdog import Watchdog
from ssr1_rl.grpo import Grpo
from ssr1_rl.rewards.load import check_reward
from ssr1_rl.store.folder import claim, find_resume, write_config
from ssr1_rl.system import running_system
from ssr1_rl.telemetry.metrics import read_metrics
from ssr1_rl.telemetry.progress import Progress
from ssr1_rl.telemetry.trackers.tracking import tracking

Summary = dict[str, float | None]
"""Figures of a finished run by name; None if a run without steps has no such figure. Counts are ints."""


class Interrupted(Exception):
    """SIGINT or SIGTERM stopped the run; the message says how to resume it."""


def run_grpo(config: Config) -> Summary:
    """Starts or resumes the run that `config` describes, on the cluster that `ssr1_rl.cluster.connect` finds.

    Returns:
        The figures that `summary.json` holds.

    Raises:
        ValueError, RuntimeError: something is wrong; the message says how to fix it.
        Interrupted: SIGINT or SIGTERM stopped the run; every actor has ended.
    """
    checked = preflight(config)
    for index, reward in enumerate(config.rewards):
        check_reward(reward, f"rewards[{index}]")
    with claim(Path(config.run.dir)), Progress(config.grpo.num_steps) as progress:
        for line in describe_preset(config.grpo) + notes(config) + checked.notes:
            progress.note(line)
        progress.phase("connecting to Ray")
        with connected():
            check_fits(make_plan(config))
            if not checked.examples:  # the model has to be downloaded, which the preflight does not do
                check_model(config.model, config.learner.prefix_packing)
                check_clip_length(config.data, config.model.path)
                for line in check_prompts(checked.splits, config)[1]:
                    progress.note(line)
            try:
                return asyncio.run(_until_signal(_run(config, checked.splits, progress)))
            except asyncio.CancelledError:
                raise Interrupted(
                    "stopped; run the same command again to resume from the newest checkpoint in "
                    f"{config.run.dir}/checkpoints"
                ) from None


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Connects to Ray, and disconnects on exit, which ends a cluster started here. Keeps a connection that was open."""
    import ray

    joined = ray.is_initialized()
    connect()
    try:
        yield
    finally:
        if not joined:
            ray.shutdown()


async def _run(config: Config, splits: Splits, progress: Progress) -> Summary:
    started = time.time()
    resume_from, damaged = find_resume(config.run)
    for note in damaged:
        progress.note(note)
    changes = write_config(config)
    if resume_from:
        progress.resume_at(resume_from.step)
        progress.note(f"resuming from {resume_from.path}")
        for change in changes:
            progress.note(f"changed setting: {change}")
    waits = Waits()
    progress.describe_waiting = waits.describe
    async with (
        Watchdog(config.telemetry.stall_warning_s, waits.describe, progress.note) as watchdog,
        tracking(config, resume_from is not None, progress.note) as track,
        running_system(config, splits.max_clips, waits, progress.phase) as system,
    ):
        progress.note(f"attention of the learners: {system.learners.attention}")
        validation = {name: split.questions for name, split in splits.validation.items()}
        grpo = Grpo(config, system, splits.train.questions, validation, progress, resume_from, watchdog.beat, track)
        try:
            await grpo.run()
        finally:
            grpo.close()
    summary = summarise(Path(config.run.dir), list(splits.validation), time.time() - started)
    (Path(config.run.dir) / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    return summary


async def _until_signal(run: Coroutine[object, None, Summary]) -> Summary:
    """Runs to the end, or until SIGINT or SIGTERM cancels it; either way every actor is ended."""
    task = asyncio.ensure_future(run)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, task.cancel)
    return await task


def summarise(run_dir: Path, splits: list[str], wall_s: float) -> Summary:
    """Computes the figures of a whole run from its metrics, steps before a resume included.

    Speeds are means over steps, not weighted by their duration; `wall_s` is the time of this process only.
    """
    rows = read_metrics(run_dir)
    steps = [row for row in rows if "time/step_s" in row]

    def mean(name: str) -> float | None:
        return sum(row[name] for row in steps) / len(steps) if steps else None

    summary: Summary = {}
    for split in splits:
        scores = [row[f"validation/{split}/score"] for row in rows if f"validation/{split}/score" in row]
        if scores:
            summary[f"accuracy_before_grpo_{split}"] = scores[0]
            summary[f"accuracy_after_grpo_{split}"] = scores[-1]
    if splits and summary:
        summary["accuracy_before_grpo"] = summary[f"accuracy_before_grpo_{splits[0]}"]
        summary["accuracy_after_grpo"] = summary[f"accuracy_after_grpo_{splits[0]}"]
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
