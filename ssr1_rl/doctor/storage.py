"""Speed and space of the storage that checkpoints go to."""

import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path

from ssr1_rl.doctor.finding import Finding, error, ok, warning

TRIAL_BYTES = 128 * 2**20
SLOW_S = 300.0
"""A checkpoint that takes longer than this stops the learners noticeably."""


def check_space(folder: Path, free_bytes: int, checkpoint_bytes: int, num_kept: int) -> Finding:
    """Whether the checkpoints that are kept, and the one that is being written, fit.

    `num_kept` includes the one being written.
    """
    needed = checkpoint_bytes * num_kept
    sizes = f"{num_kept} checkpoints of {_size(checkpoint_bytes)}; {folder} has {_size(free_bytes)} free"
    if needed > free_bytes:
        return error(
            f"no space for {sizes}",
            "the run would stop at a checkpoint",
            "lower checkpoint.keep_last, free space, or set run.dir to another disk",
        )
    return ok(f"space for {sizes}")


def check_speed(folder: Path, bytes_per_s: float, checkpoint_bytes: int) -> Finding:
    """How long one checkpoint takes at the measured speed."""
    seconds = checkpoint_bytes / bytes_per_s
    text = f"{folder} takes {_size(bytes_per_s)}/s; a checkpoint of {_size(checkpoint_bytes)} takes {seconds:,.0f} s"
    if seconds > SLOW_S:
        return warning(text, "engines and learners wait meanwhile", "raise checkpoint.every, or use faster storage")
    return ok(text)


def measure(folder: Path, num_bytes: int = TRIAL_BYTES) -> tuple[float, int]:
    """Writes a file and removes it; returns bytes per second, on disk (fsync), and the free bytes.

    Raises:
        OSError: the folder cannot be written to.
    """
    block = os.urandom(2**20)
    trial = folder / f".doctor-{uuid.uuid4().hex}"
    try:
        started = time.perf_counter()
        with trial.open("xb") as file:
            for _ in range(max(1, num_bytes // len(block))):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - started
    finally:
        with contextlib.suppress(FileNotFoundError):
            trial.unlink()
    return num_bytes / seconds, shutil.disk_usage(folder).free


def existing_parent(folder: Path) -> Path:
    """The nearest folder that exists: the one that a run would make `folder` in."""
    folder = folder.absolute()
    return folder if folder.is_dir() else existing_parent(folder.parent)


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
