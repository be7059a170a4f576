"""Writes a run's metrics to `metrics.jsonl` (one JSON object per line) and TensorBoard event files, and reads them.

Names are grouped by slashes: "train/loss", "rollout/tokens_per_s", "validation/test/accuracy". JSON has neither NaN nor
infinity, and strict readers refuse those that Python writes. They are written as the strings "NaN", "Infinity" and
"-Infinity"; `read_metrics` returns floats.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
TENSORBOARD_FLUSH_S = 10
"""Seconds between two flushes of the event files; a killed run loses at most the scalars since the last one."""
OnRow = Callable[[int, Mapping[str, float]], None]
OWN_FIELDS = ("step", "time_s")


class MetricsWriter:
    """Appends rows of metrics; a row is on disk when `write` returns.

    Rows of steps after `resume_step`, the checkpoint's, are removed, because these steps are repeated. With 0 the run
    starts from nothing, and all rows are removed, also those of step 0 (the validation before training).

    Attributes:
        on_row: gets every row too; it returns at once.
    """

    def __init__(self, run_dir: Path, tensorboard: bool, resume_step: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        if path.exists():
            _drop_after(path, resume_step)
        self.on_row: OnRow | None = None
        self._file = path.open("ab")
        self._events = _open_events(run_dir, resume_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one row; a step may have several. Units are in the names (`_s`, `_bytes`, `_per_s`)."""
        values = {name: float(value) for name, value in metrics.items()}
        assert not values.keys() & set(OWN_FIELDS), f"no metric may have a name of {OWN_FIELDS}"
        now = time.time()
        row = {"step": step, "time_s": now, **{name: _to_json(value) for name, value in values.items()}}
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step, walltime=now)
        if self.on_row is not None:
            self.on_row(step, values)

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The rows of a run, oldest first: `step` (an int), `time_s` (Unix time) and the metrics.

    A run that is still writing can be read: an incomplete last line is left out.

    Raises:
        FileNotFoundError: the run has no metrics yet.
        ValueError: a line other than the last one is not JSON.
    """
    return [
        {name: int(value) if name == "step" else float(value) for name, value in row.items()}
        for _, row in _read_lines(run_dir / METRICS_FILE)[0]
    ]


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _read_lines(path: Path) -> tuple[list[tuple[bytes, dict[str, float | str]]], bytes]:
    """Every complete line with its row, and the bytes of an incomplete last line."""
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    parsed = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return parsed, line
            raise ValueError(f"{path} line {number} is not JSON ({error}); remove that line") from error
        parsed.append((line, row))
    return parsed, b""


def _drop_after(path: Path, resume_step: int) -> None:
    """Rewrites the file without later steps and an incomplete last line; a kill leaves the old file or the new one."""
    lines, torn = _read_lines(path)
    if torn:
        logger.warning("%s: removed the incomplete last line (%d bytes) of a killed run", path, len(torn))
    kept = [line + b"\n" for line, row in lines if resume_step > 0 and int(row["step"]) <= resume_step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _open_events(run_dir: Path, resume_step: int) -> SummaryWriter:
    # Imported here because tensorboardX imports torch where it is installed; readers of metrics do not need it.
    from tensorboardX import SummaryWriter

    return SummaryWriter(
        str(run_dir / TENSORBOARD_FOLDER),
        # TensorBoard hides events of this and later steps in older files.
        purge_step=resume_step + 1 if resume_step else 0,
        flush_secs=TENSORBOARD_FLUSH_S,
        # File names hold whole seconds: a run resumed within the same second would overwrite its own events.
        filename_suffix=f".{time.time_ns()}",
    )
