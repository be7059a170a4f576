"""Reads users' own data in Parquet: a file, a folder of files (shards), or a pattern such as `data/train-*.parquet`.

The columns are those of JSON lines, and the data set's `columns` may give each another name. `audio` may hold paths, or
the bytes of sound files, also in the form of Hugging Face's data sets (`{bytes, path}`), or lists of these.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import ClipFolder
from ssr1_rl.data.columns import read_by_columns, used_columns
from ssr1_rl.data.records import Record
from ssr1_rl.data.rows import ReadResult
from ssr1_rl.data.tables import Columns, records_of
from ssr1_rl.errors import UserError

_ROWS_AT_ONCE = 64
"""Rows of which all clips are in memory at the same time."""


def read_parquet(config: DatasetConfig) -> ReadResult:
    """Reads one split; a data set of several files in the order of their names.

    Raises:
        UserError: a file cannot be read, or a column that the settings name is missing.
    """
    files = parquet_files(config.path)
    if not files:
        raise UserError(f"{config.path}: no Parquet file is there; fix the path of the data set")
    notes: dict[str, None] = {}
    used = used_columns(config)
    records = (record for file in files for record in _records(file, used, notes))
    result = read_by_columns(config, records, ClipFolder(config, path=files[0].parent))
    return replace(result, notes=(*result.notes, *notes))


def parquet_files(path: str) -> list[Path]:
    """The files that a path or a pattern stands for, sorted."""
    if Path(path).is_dir():
        return sorted(Path(path).glob("*.parquet"))
    if Path(path).is_file():
        return [Path(path)]
    return sorted(file for name in glob.glob(path) if (file := Path(name)).is_file())


def _records(file: Path, used: set[str], notes: dict[str, None]) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as table:
            columns = Columns(table.schema_arrow, used, str(file))
            notes.update(dict.fromkeys(columns.notes()))
            start = 1
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=columns.kept):
                yield from records_of(batch, columns, start, str(file))
                start += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file}: cannot be read as Parquet ({reason}); fetch it again, or set the data set's format right"
        ) from error
