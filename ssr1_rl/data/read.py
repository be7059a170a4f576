"""A data set on disk -> questions, whatever its format."""

from __future__ import annotations

from ssr1_rl.config.schema import DatasetConfig
from ssr1_rl.data.avqa import read_avqa
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.rows import ReadResult, check_skipped


def read_questions(config: DatasetConfig, max_skipped_share: float) -> ReadResult:
    """Read one split and refuse it when too many of its rows cannot be used.

    Raises:
        ValueError: the file cannot be read at all, or more than `max_skipped_share` of its rows are bad.
    """
    if config.format == "avqa":
        result = read_avqa(config)
    elif config.format == "jsonl":
        result = read_jsonl(config)
    else:
        raise ValueError(f"unknown data format {config.format!r}; known: avqa, jsonl")
    try:
        check_skipped(result, max_skipped_share)
    except ValueError as error:
        raise ValueError(f"{config.path}: {error}") from error
    return result
