"""MLflow, set up by its own environment variables: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_TOKEN and the like."""

import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from ssr1_rl.config.kinds import Key, entries
from ssr1_rl.telemetry.trackers.base import Ending, TrackedRun

MAX_PARAM_CHARACTERS = 6000
MAX_BATCH = 100
"""Most parameters of one request, MLflow's own limits."""

_STATUS: Mapping[Ending, str] = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Run:
    """A run in the experiment of the project's name; see `Tracker`."""

    def start(self, run: TrackedRun, run_id: str) -> str:
        self._client = MlflowClient()
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
            self._id = run_id
            return run_id
        experiment = self._client.get_experiment_by_name(run.project)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(run.project)
        self._id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        # The settings of the first start: MLflow's parameters never change.
        params = [Param(_allowed(name), value[:MAX_PARAM_CHARACTERS]) for name, value in _flat(run.settings, ())]
        for first in range(0, len(params), MAX_BATCH):
            self._client.log_batch(self._id, params=params[first : first + MAX_BATCH])
        return self._id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        rows = [Metric(_allowed(name), value, now_ms, step) for name, value in metrics.items()]
        self._client.log_batch(self._id, metrics=rows)

    def finish(self, ending: Ending) -> None:
        self._client.set_terminated(self._id, _STATUS[ending])


def _allowed(name: str) -> str:
    """A name of the characters that MLflow takes."""
    return re.sub(r"[^\w\-./: ]", "_", name, flags=re.ASCII)


def _flat(value: object, key: Key) -> list[tuple[str, str]]:
    if not isinstance(value, dict | list):
        return [(".".join(map(str, key)), str(value))]
    return [found for name, inner in entries(value) for found in _flat(inner, (*key, name))]
