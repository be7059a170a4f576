"""Reads a format for users' own data: JSON lines, or a JSON array, of objects.

Fields: `id`; `question`; `answer` (a text or a number; with choices the text, the letter or the 0-based index of one);
optional `choices`; optional `audio` (a path or a list of paths, relative to the folder of clips); optional `video`;
optional `kind`. The data set's `columns` may give each another name. All further fields become the question's
`metadata`. A row without `audio` is a text-only question, one without `choices` an open one; an empty list says so
explicitly.
"""

from __future__ import annotations

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.columns import read_by_columns
from ssr1_rl.data.records import read_records
from ssr1_rl.data.rows import ReadResult


def read_jsonl(config: DatasetConfig) -> ReadResult:
    """Reads one split; blank lines are ignored.

    Raises:
        UserError: the file cannot be read, or a column that the settings name is in no row.
    """
    return read_by_columns(config, read_records(config.path), ClipFolder(config))
