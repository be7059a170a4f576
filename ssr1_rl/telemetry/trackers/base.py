"""What every tracker does, and what it is told about the run. A tracker's package is imported only if it is chosen."""

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from ssr1_rl.errors import ConfigError

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""What each tracker imports. An extra of this package with the tracker's name brings it."""


Ending: TypeAlias = Literal["finished", "stopped", "failed"]
"""How a start of the run ended. One that was stopped, by a signal or because its time was over, goes on later."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker shows of a run besides its metrics."""

    project: str
    name: str
    folder: Path  # run.dir
    settings: Mapping[str, object]  # nested, without secrets


class Tracker(Protocol):
    """One tracker. Its methods may block, and raise whatever its package raises."""

    def start(self, run: TrackedRun, run_id: str) -> str:
        """Continues the tracker's run `run_id`, or starts one if it is empty; returns the id to continue it by."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends one row. A step may have several; after a resume, some steps come again."""
        ...

    def finish(self, ending: Ending) -> None:
        """Sends what is left, and ends the run."""
        ...


def make_tracker(name: str) -> Tracker:
    """The tracker of this name: class `Run` of the module `<name>_run` in this room."""
    tracker: Tracker = importlib.import_module(f"{__package__}.{name}_run").Run()
    return tracker


def check_installed(names: Sequence[str]) -> None:
    """Refuses trackers whose package is missing.

    Raises:
        ConfigError: with the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"telemetry.trackers names {name}, which is not installed here: pip install 'ssr1-rl[{name}]', "
                "or leave it out"
            )
