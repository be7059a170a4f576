"""Weights & Biases, set up by its own environment variables: WANDB_API_KEY, WANDB_MODE=offline and the like."""

import uuid
from collections.abc import Mapping

import wandb

from ssr1_rl.telemetry.trackers.base import Ending, TrackedRun

FINISH_S = 20.0


class Run:
    """A run of Weights & Biases; see `Tracker`."""

    def start(self, run: TrackedRun, run_id: str) -> str:
        run_id = run_id or uuid.uuid4().hex[:16]
        if wandb.setup().settings.mode == "online":
            wandb.login(prompt=False, verify=False)  # a missing key is an error here: nobody may be there to ask
        settings = wandb.Settings(
            console="off",  # the live display is not for a log
            silent=True,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,  # it holds the command line, in which a secret may stand
            finish_timeout=FINISH_S,
        )
        self._run = wandb.init(
            project=run.project, name=run.name, id=run_id, resume="allow", dir=str(run.folder), settings=settings
        )
        self._run.config.update(dict(run.settings), allow_val_change=True)
        # W&B drops rows of a step that it has passed, as a resumed run repeats them: `step` is a figure of its own.
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")
        return run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self, ending: Ending) -> None:
        if ending == "stopped":
            self._run.mark_preempting()  # W&B then shows the run as preempted, not as crashed
        self._run.finish(exit_code=0 if ending == "finished" else 1)
