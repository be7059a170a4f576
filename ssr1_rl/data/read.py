"""Reads a data set of any format into questions. Each format has a module of its own, with its reader listed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.avqa import read_avqa
from ssr1_rl.data.clips import MISSING
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.mmau import read_mmau
from ssr1_rl.data.rows import ReadResult, SkippedRow
from ssr1_rl.errors import UserError

READERS: dict[str, Callable[[DatasetConfig], ReadResult]] = {
    "avqa": read_avqa,
    "jsonl": read_jsonl,
    "mmau": read_mmau,
}
"""The reader of each `format` of a data set."""

_KEYS: dict[str, frozenset[str]] = {
    "avqa": frozenset({"video_name", "question_text", "multi_choice"}),
    "mmau": frozenset({"audio_id", "question", "choices", "answer"}),
    "MUSIC-AVQA's": frozenset({"question_content", "templ_values"}),
    "jsonl": frozenset({"question", "answer"}),
}
"""Keys by which the rows of a format are recognised, the most special ones first."""

NEARLY_ALL = 0.9


def read_questions(config: DatasetConfig, max_skipped_share: float) -> ReadResult:
    """Reads one split. Fails if too many of its rows cannot be used.

    Raises:
        UserError: the file cannot be read at all, or more than `max_skipped_share` of its rows are bad.
    """
    if config.format not in READERS:
        raise UserError(f"unknown data format {config.format!r}; known: {', '.join(READERS)}")
    result = READERS[config.format](config)
    num_skipped, num_rows = len(result.skipped), len(result.skipped) + len(result.questions)
    if not num_rows:
        raise UserError(f"{config.path}: the file holds no rows; fix the path of the data set")
    if not result.questions or num_skipped > max_skipped_share * num_rows:
        raise UserError(_explain(config, result, max_skipped_share))
    return result


def _explain(config: DatasetConfig, result: ReadResult, max_skipped_share: float) -> str:
    """Why the split is refused: one sentence if nearly all rows fail for the same reason, else the first few rows."""
    skipped, num_rows = result.skipped, len(result.skipped) + len(result.questions)
    found = next((name for name, keys in _KEYS.items() if keys <= result.keys), "")
    if len(skipped) >= NEARLY_ALL * num_rows and found not in ("", config.format):
        fix = (
            f"set its format to {found}"
            if found in READERS
            else "which no format reads: write them as JSON lines with id, question, answer, choices and audio"
        )
        named = f"format {found}" if found in READERS else found
        return (
            f"{config.path}: its rows are those of {named} ({', '.join(sorted(_KEYS[found]))}), and the data set's "
            f"format is {config.format}; {fix}"
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
    clips = f"; is audio_dir={config.audio_dir or '(the folder of the file)'} right?" if first.kind == MISSING else ""
    return (
        f"{config.path}: {num_same:,} of {num_rows:,} rows cannot be used for one reason, "
        f"row {first.row} for example: {first.field}: {first.reason}{clips}"
    )
