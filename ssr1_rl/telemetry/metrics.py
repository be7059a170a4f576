"""Metrics of a run: one JSON object a line in `metrics.jsonl`, and TensorBoard event files.

Names are grouped by slashes: "train/loss", "rollout/tokens_per_s", "validation/test/accuracy".
JSON has no NaN and no infinity, and strict readers refuse Python's own spelling of them. They
are written as the strings "NaN", "Infinity" and "-Infinity"; `read_metrics` gives floats back.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
TENSORBOARD_FLUSH_S = 10
"""Seconds until a scalar is on disk; a killed run loses no more than this of its event files."""

OWN_FIELDS = ("step", "time_s")


class MetricsWriter:
    """Appends metrics to a run; every row is on disk when `write` returns.

    Args:
        run_dir: folder of the run.
        tensorboard: write TensorBoard event files as well.
        resume_step: the step of the checkpoint that the run goes on from. Rows of later steps
            belong to work that is done again and are removed. 0: the run starts from nothing,
            so no row stays, step 0 (the validation before training) included.
    """

    def __init__(self, run_dir: Path, tensorboard: bool, resume_step: int = 0) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        if path.exists():
            _drop_after(path, resume_step)
        self._file = path.open("ab")
        self._events = _open_events(run_dir, resume_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one row.

        Args:
            step: the training step that the metrics belong to; a step may have several rows.
            metrics: anything `float` takes; units are in the names (`_s`, `_bytes`, `_per_s`).
        """
        values = {name: float(value) for name, value in metrics.items()}
        assert not values.keys() & set(OWN_FIELDS), f"metrics are slash-grouped; {OWN_FIELDS} are the row's own fields"
        now = time.time()
        row = {"step": step, "time_s": now, **{name: _to_json(value) for name, value in values.items()}}
        self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step, walltime=now)

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        if self._events is not None:
            self._events.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of a run in the order of writing: `step` (int), `time_s` (Unix time), metrics (float).

    A run that is still writing may be read: a last line that is not whole yet is left out.

    Raises:
        FileNotFoundError: the run has no metrics yet.
        ValueError: a line other than the last one is not JSON.
    """
    rows = []
    for _, row in _read_lines(run_dir / METRICS_FILE)[0]:
        rows.append({name: value if name == "step" else float(value) for name, value in row.items()})
    return rows


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _read_lines(path: Path) -> tuple[list[tuple[bytes, dict[str, Any]]], bytes]:
    """Every whole line with its row, and what there is of a torn last line."""
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
    """Rewrites the file without later steps and torn lines; a kill leaves the old file or the new."""
    lines, torn = _read_lines(path)
    if torn:
        logger.warning("%s: dropped its torn last line (%d bytes) that a killed run left", path, len(torn))
    kept = [line + b"\n" for line, row in lines if resume_step > 0 and row["step"] <= resume_step]
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _open_events(run_dir: Path, resume_step: int) -> Any:
    # Imported here because tensorboardX imports torch where it is installed, which readers need not wait for.
    from tensorboardX import SummaryWriter

    return SummaryWriter(
        str(run_dir / TENSORBOARD_FOLDER),
        # TensorBoard hides older events from this step on.
        purge_step=resume_step + 1 if resume_step else 0,
        flush_secs=TENSORBOARD_FLUSH_S,
        # File names have seconds only: a run resumed within the second would overwrite its own events.
        filename_suffix=f".{time.time_ns()}",
    )
