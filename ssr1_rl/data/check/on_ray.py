"""Decodes many files side by side, with Ray Data."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import cast

import pyarrow as pa
import ray.data

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.check.measure import Measured, Media, measure_clip, measure_video
from ssr1_rl.types import AudioRef, VideoRef

MAX_FILES_PER_TASK = 32
MIN_TASKS = 64
"""With fewer files a task takes fewer than `MAX_FILES_PER_TASK`, so that every core gets some."""

MAX_RETRIES = 1
"""Tries of a task whose process died, after the first. Ray Data itself would try for ever."""

_FILES = pa.schema(
    [("index", pa.int64()), ("path", pa.string()), ("is_clip", pa.bool_()), ("stills", pa.list_(pa.string()))]
)


def measure_on_ray(
    files: Sequence[Media], data: DataConfig, on_done: Callable[[list[Measured]], None]
) -> list[Measured]:
    """What decoding each file gave, in the order of `files`; needs a connection to Ray.

    Args:
        files: clips and videos, at least one.
        data: how clips are decoded.
        on_done: called with the results of some files as they come, in any order.
    """
    rows = [_row(index, ref) for index, ref in enumerate(files)]
    size = max(1, min(MAX_FILES_PER_TASK, len(rows) // MIN_TASKS))
    blocks = [pa.Table.from_pylist(rows[start : start + size], _FILES) for start in range(0, len(rows), size)]
    found: dict[int, Measured] = {}
    with _quiet():
        dataset = ray.data.from_arrow(blocks).map_batches(
            partial(_measure_batch, data=data), batch_size=None, batch_format="pyarrow", max_retries=MAX_RETRIES
        )
        dataset.context.enable_progress_bars = False
        dataset.context.print_on_execution_start = False
        # A file that kills its decoder spoils its own task and no other.
        dataset.context.max_errored_blocks = -1
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            new = {row.pop("index"): Measured(**row) for row in cast("pa.Table", batch).to_pylist()}
            found.update(new)
            on_done(list(new.values()))
    if lost := {index: _lost(ref, size) for index, ref in enumerate(files) if index not in found}:
        on_done(list(lost.values()))
    found |= lost
    return [found[index] for index in range(len(files))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data's remarks on its own work are not for the user."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _row(index: int, ref: Media) -> dict[str, object]:
    stills = list(ref.stills) if isinstance(ref, VideoRef) else []
    return {"index": index, "path": ref.path, "is_clip": isinstance(ref, AudioRef), "stills": stills}


def _measure_batch(batch: pa.Table, data: DataConfig) -> pa.Table:
    rows = []
    for row in batch.to_pylist():
        if row["is_clip"]:
            measured = measure_clip(AudioRef(row["path"]), data)
        else:
            measured = measure_video(VideoRef(row["path"], tuple(row["stills"])))
        rows.append({"index": row["index"]} | asdict(measured))
    return pa.Table.from_pylist(rows)


def _lost(ref: Media, size: int) -> Measured:
    path = ref.stills[0] if isinstance(ref, VideoRef) and ref.stills else ref.path
    others = f", or one of {size - 1} others that were decoded with it," if size > 1 else ""
    reason = (
        f"{path}: not decoded, because the task failed each time; this file{others} crashes a decoder: leave it out"
    )
    return Measured(kind="broken clip" if isinstance(ref, AudioRef) else "broken video", reason=reason)
