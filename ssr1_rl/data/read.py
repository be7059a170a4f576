"""Reads a data set of any format into questions. Each format has a module of its own, with its reader listed here."""

from __future__ import annotations

from collections.abc import Callable

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.avqa import read_avqa
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.rows import ReadResult

READERS: dict[str, Callable[[DatasetConfig], ReadResult]] = {
    "avqa": read_avqa,
    "jsonl": read_jsonl,
}
"""The reader of each `format` of a data set."""


def read_questions(config: DatasetConfig, max_skipped_share: float) -> ReadResult:
    """Reads one split. Fails if too many of its rows cannot be used.

    Raises:
        ValueError: the file cannot be read at all, or more than `max_skipped_share` of its rows are bad.
    """
    if config.format not in READERS:
        raise ValueError(f"unknown data format {config.format!r}; known: {', '.join(READERS)}")
    result = READERS[config.format](config)
    num_skipped, num_rows = len(result.skipped), len(result.skipped) + len(result.questions)
    if not num_rows:
        raise ValueError(f"{config.path}: the file holds no rows; fix the path of the data set")
    if not result.questions or num_skipped > max_skipped_share * num_rows:
        shown = "\n".join(f"  {skipped}" for skipped in result.skipped[:5])
        more = f"\n  … and {num_skipped - 5} more" if num_skipped > 5 else ""
        raise ValueError(
            f"{config.path}: {num_skipped} of {num_rows} rows cannot be used, more than "
            f"data.max_skipped_share={max_skipped_share}:\n{shown}{more}\n"
            "fix these rows, or raise data.max_skipped_share"
        )
    return result
