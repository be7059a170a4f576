"""Writes a run's metrics to `metrics.jsonl` (one JSON object per line) and TensorBoard event files, and reads them.

Names are grouped by slashes: "train/loss", "rollout/tokens_per_s", "validation/test/accuracy". JSON has neither NaN nor
infinity, and strict readers refuse those that Python writes. They are written as the strings "NaN", "Infinity" and
"-Infinity"; `read_metrics` returns floats.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ssr1_rl.errors import UserError
from ssr1_rl.files import SetAside, replacing

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
TENSORBOARD_FLUSH_S = 10
"""Seconds between two flushes of the event files; a killed run loses at most the scalars since the last one."""
OnRow = Callable[[int, Mapping[str, float]], None]
OWN_FIELDS = ("step", "time_s")


class MetricsWriter:
    """Appends rows of metrics; a row is on disk when `write` returns.

    Rows that the run will write again are set aside: those of steps after `kept_step`, the checkpoint's (-1: all rows,
    as another run wrote them), and with `revalidates` the validations of that step.

    Attributes:
        on_row: gets every row too; it returns at once.
    """

    def __init__(
        self, run_dir: Path, tensorboard: bool, aside: SetAside, kept_step: int = -1, revalidates: bool = False
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        if path.exists():
            _set_rows_aside(path, aside, kept_step, revalidates)
        if kept_step < 0 and (run_dir / TENSORBOARD_FOLDER).exists():
            aside.move(run_dir / TENSORBOARD_FOLDER)
        self.on_row: OnRow | None = None
        self._file = path.open("ab")
        self._events = _open_events(run_dir, kept_step) if tensorboard else None

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
        UserError: a line other than the last one is no row.
    """
    path = run_dir / METRICS_FILE
    lines = [line for line in path.read_bytes().split(b"\n") if line]
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _row(line)
        if row is None and number < len(lines):
            raise UserError(f"{path} line {number} is not a row of metrics: {line[:80]!r}; remove that line")
        if row is not None:
            rows.append({name: int(value) if name == "step" else float(value) for name, value in row.items()})
    return rows


def _to_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _set_rows_aside(path: Path, aside: SetAside, kept_step: int, revalidates: bool) -> None:
    """Splits the file in two; a kill leaves the whole file, and perhaps copies of rows in the folder set aside."""
    content = path.read_bytes()
    kept, rest = [], []
    for line in filter(None, content.split(b"\n")):
        row = _row(line)
        again = row is None or _step(row) > kept_step or (revalidates and _step(row) == kept_step and _validates(row))
        (rest if again else kept).append(line + b"\n")
    if rest:
        aside.write(METRICS_FILE, b"".join(rest))
    if b"".join(kept) != content:
        with replacing(path) as file:
            file.writelines(kept)


def _row(line: bytes) -> dict[str, float | str] | None:
    """The row of a line, None for a line that is none, such as the incomplete last one of a killed run."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _step(row: Mapping[str, float | str]) -> int:
    return int(row["step"])


def _validates(row: Mapping[str, float | str]) -> bool:
    return any(name.startswith("validation/") for name in row)


def _open_events(run_dir: Path, kept_step: int) -> SummaryWriter:
    # Imported here because tensorboardX imports torch where it is installed; readers of metrics do not need it.
    from tensorboardX import SummaryWriter

    return SummaryWriter(
        str(run_dir / TENSORBOARD_FOLDER),
        # TensorBoard hides events of this and later steps in older files.
        purge_step=kept_step + 1,
        flush_secs=TENSORBOARD_FLUSH_S,
        # File names hold whole seconds: a run resumed within the same second would overwrite its own events.
        filename_suffix=f".{time.time_ns()}",
    )
