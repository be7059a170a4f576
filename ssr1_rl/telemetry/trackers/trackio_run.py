"""trackio, set up by its own environment variables: TRACKIO_DIR, TRACKIO_SPACE_ID, TRACKIO_SERVER_URL and the like."""

import uuid
from collections.abc import Mapping

import trackio

from ssr1_rl.telemetry.trackers.base import Ending, TrackedRun


class Run:
    """A run of trackio; see `Tracker`. Its name is its id, so it holds a few random characters."""

    def start(self, run: TrackedRun, run_id: str) -> str:
        run_id = run_id or f"{run.name}-{uuid.uuid4().hex[:6]}"
        self._run = trackio.init(
            project=run.project, name=run_id, config=dict(run.settings), resume="allow", embed=False
        )
        return run_id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, ending: Ending) -> None:
        self._run.finish()
