"""Reads a data set of any format into questions. Each format has a module of its own, with its reader listed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ssr1_rl.config.sections.data import ColumnsConfig, DatasetConfig
from ssr1_rl.data.avqa import read_avqa
from ssr1_rl.data.clips import MISSING
from ssr1_rl.data.huggingface import is_on_hub, read_huggingface
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.mmau import read_mmau
from ssr1_rl.data.music_avqa import read_music_avqa
from ssr1_rl.data.parquet import parquet_files, read_parquet
from ssr1_rl.data.rows import HAVE_COLUMNS, ReadResult, SkippedRow
from ssr1_rl.data.videos import MISSING_VIDEO
from ssr1_rl.errors import UserError

READERS: dict[str, Callable[[DatasetConfig], ReadResult]] = {
    "avqa": read_avqa,
    "huggingface": read_huggingface,
    "jsonl": read_jsonl,
    "mmau": read_mmau,
    "music_avqa": read_music_avqa,
    "parquet": read_parquet,
}
"""The reader of each `format` of a data set."""

_KEYS: dict[str, frozenset[str]] = {
    "avqa": frozenset({"video_name", "question_text", "multi_choice"}),
    "mmau": frozenset({"audio_id", "question", "choices", "answer"}),
    "music_avqa": frozenset({"question_content", "templ_values"}),
    "jsonl": frozenset({"question", "answer"}),
}
"""Keys by which the rows of a format are recognised, the most special ones first."""

_OF_JSON = ("avqa", "jsonl", "mmau", "music_avqa")

NEARLY_ALL = 0.9


def read_questions(config: DatasetConfig, max_skipped_share: float) -> ReadResult:
    """Reads one split. Fails if too many of its rows cannot be used.

    Raises:
        UserError: the file cannot be read at all, or more than `max_skipped_share` of its rows are bad.
    """
    result = read_all(config)
    num_skipped, num_rows = len(result.skipped), len(result.skipped) + len(result.questions)
    if not result.questions or num_skipped > max_skipped_share * num_rows:
        raise UserError(_explain(config, result, max_skipped_share))
    return result


def read_all(config: DatasetConfig) -> ReadResult:
    """Reads one split, however many of its rows cannot be used.

    Raises:
        UserError: the file cannot be read at all, or the settings leave no row of it.
    """
    if config.format not in READERS:
        raise UserError(f"unknown data format {config.format!r}; known: {', '.join(READERS)}")
    _refuse_settings_of_other_formats(config)
    result = READERS[config.format](config)
    if not (result.questions or result.skipped):
        raise UserError(f"{config.path}: the file holds no rows; fix the path of the data set")
    return result


def is_there(config: DatasetConfig) -> bool:
    """Whether the file or folder of a split exists, or may exist on the hub."""
    if config.format == "parquet":
        return bool(parquet_files(config.path))
    return Path(config.path).exists() or (config.format == "huggingface" and is_on_hub(config.path))


def _refuse_settings_of_other_formats(config: DatasetConfig) -> None:
    if config.format not in HAVE_COLUMNS and config.columns != ColumnsConfig():
        raise UserError(
            f"{config.path}: the data set's columns are for the formats {', '.join(HAVE_COLUMNS)}, and its format is "
            f"{config.format}, which has names of its own; leave columns out, or set the format right"
        )
    for name in ("subset", "split", "revision"):
        value = getattr(config, name)
        if value and config.format != "huggingface":
            raise UserError(
                f"{config.path}: the data set's {name}={value!r} is for the format huggingface, and its format is "
                f"{config.format}; leave {name} out, or set the format right"
            )


def _explain(config: DatasetConfig, result: ReadResult, max_skipped_share: float) -> str:
    """Why the split is refused: one sentence if nearly all rows fail for the same reason, else the first few rows."""
    skipped, num_rows = result.skipped, len(result.skipped) + len(result.questions)
    found = next((name for name, keys in _KEYS.items() if keys <= result.keys), "")
    if len(skipped) >= NEARLY_ALL * num_rows and found not in ("", config.format) and config.format in _OF_JSON:
        return (
            f"{config.path}: its rows are those of format {found} ({', '.join(sorted(_KEYS[found]))}), and the data "
            f"set's format is {config.format}; set its format to {found}"
        )
    cause, num_same = Counter(row.cause for row in skipped).most_common(1)[0]
    first = next(row for row in skipped if row.cause == cause)
    if num_same >= NEARLY_ALL * num_rows and num_same > 1:
        return _same_reason(config, first, num_same, num_rows)
    shown = "\n".join(f"  {row}" for row in skipped[:5])
    more = f"\n  … and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return (
        f"{config.path}: {len(skipped)} of {num_rows} rows cannot be used, more than "
        f"data.max_skipped_share={max_skipped_share}:\n{shown}{more}\n"
        "fix these rows, or raise data.max_skipped_share"
    )


def _same_reason(config: DatasetConfig, first: SkippedRow, num_same: int, num_rows: int) -> str:
    clips = ""
    if first.kind == MISSING:
        clips = f"; is audio_dir={config.audio_dir or '(the folder of the file)'} right?"
    if first.kind == MISSING_VIDEO:
        clips = f"; is video_dir={config.video_dir} right?"
    return (
        f"{config.path}: {num_same:,} of {num_rows:,} rows cannot be used for one reason, "
        f"row {first.row} for example: {first.field}: {first.reason}{clips}"
    )
