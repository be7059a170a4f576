"""Arrow tables, as Parquet files and Hugging Face data sets hold them -> rows of plain values.

A column that holds bytes and is not used (pictures, for example) is left out: rewards and samples get every other
column with each question, and would carry it along.
"""

from __future__ import annotations

import datetime
import decimal
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ssr1_rl.data.records import Record
from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa


class Columns:
    """The columns of a table that are read.

    Attributes:
        kept: their names.
        left_out: names of those that hold bytes and are not used.
        labels: what the numbers of a column of class labels stand for, by the column.

    Raises:
        UserError: two columns have one name.
    """

    def __init__(self, schema: pa.Schema, used: set[str], path: str) -> None:
        self._path = path
        twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{path}: two columns are named {twice!r}; rename one of them")
        self.left_out = tuple(field.name for field in schema if field.name not in used and _holds_bytes(field.type))
        self.kept = [name for name in schema.names if name not in self.left_out]
        self.labels = _class_labels(schema)

    def notes(self) -> tuple[str, ...]:
        """What a user may not expect: columns that are left out."""
        if not self.left_out:
            return ()
        return (f"{self._path}: left out of metadata, because they hold bytes: {', '.join(self.left_out)}",)


def records_of(rows: pa.RecordBatch | pa.Table, columns: Columns, start: int, source: str) -> Iterator[Record]:
    """The rows of a table, of which the first has the number `start`; `source` is its file, for error messages."""
    labels = columns.labels
    for number, value in enumerate(rows.select(columns.kept).to_pylist(), start):
        row = {name: _named(inner, labels[name]) if name in labels else plain(inner) for name, inner in value.items()}
        yield Record(number, row, source)


def plain(value: object) -> object:
    """A value as JSON could hold it, with times and decimal numbers as text; bytes stay."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta | decimal.Decimal):
        return str(value)
    return value


def _class_labels(schema: pa.Schema) -> dict[str, list[str]]:
    """The names of class labels, as Hugging Face's `datasets` keeps them in the schema of its files."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        inner = {name: feature.get("feature", feature) for name, feature in features.items()}
        return {name: feature["names"] for name, feature in inner.items() if feature.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}  # the file is not from `datasets`


def _named(value: object, names: list[str]) -> object:
    """The name of a class label, or of each in a list; -1 stands for none."""
    if isinstance(value, list):
        return [_named(inner, names) for inner in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _holds_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    if is_bytes or pa.types.is_binary_view(kind):
        return True
    if pa.types.is_dictionary(kind):
        return _holds_bytes(kind.value_type)
    return any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
