"""The table of chains of thought, as Parquet: one row for each chain that the teacher was asked for, kept or not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.files import replacing

CHAINS = "chains.parquet"
"""Name of the teacher's table in the folder of a run."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """One chain of thought and what became of it."""

    question_id: str
    chain: int  # 0, 1, … for each question
    text: str  # the response to learn, as `response_text` writes it; what the teacher wrote if that is no response
    thoughts: str = ""
    answer: str = ""  # the choice that it names, or the answer to an open question; empty if it has none
    is_right: bool | None = None  # None if labels are not used, or the request failed
    vote_share: float = 0.0  # share of the question's chains with this answer
    kept: bool = False
    reason: str = ""  # why it is kept, or why not
    num_tokens: int = 0
    finish_reason: str = ""  # "stop" or "length"; empty if the request failed


SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("chain", pa.int64()),
        ("text", pa.string()),
        ("thoughts", pa.string()),
        ("answer", pa.string()),
        ("is_right", pa.bool_()),
        ("vote_share", pa.float64()),
        ("kept", pa.bool_()),
        ("reason", pa.string()),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
    ]
)
"""Columns of the table, in the order of `Chain`'s fields."""

MAY_BE_NULL = ("is_right", "score")


def response_text(thoughts: str, answer: str) -> str:
    """The response that a student learns."""
    return f"<think> {thoughts} </think> <answer> {answer} </answer>"


def write_chains(path: Path, chains: Iterable[Chain]) -> None:
    """Replaces the table as a whole."""
    table = pa.Table.from_pylist([dataclasses.asdict(chain) for chain in chains], SCHEMA)
    with replacing(path) as file:
        pq.write_table(table, file)


def read_chains(path: Path) -> list[Chain]:
    """Every chain of a table; further columns are left out.

    Raises:
        MissingFile: there is no such file.
        UserError: it is no table of chains.
    """
    return [Chain(**row) for row in read_table(path, SCHEMA).to_pylist()]


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of a Parquet file that this package or its user has written.

    Raises:
        MissingFile: there is no such file.
        UserError: it is no Parquet file, or a column is missing, of another type, or has nulls that mean nothing.
    """
    if not path.is_file():
        raise MissingFile(f"{path} is not a file; run `ssr1-rl distill generate` with this run.dir first")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({error}); give a run's table of chains") from error
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise UserError(
            f"{path}: has no column {', '.join(missing)} (it has {', '.join(table.column_names)}); give a run's table "
            "of chains"
        )
    holes = {name: table[name].null_count for name in schema.names if name not in MAY_BE_NULL}
    if any(holes.values()):
        counts = ", ".join(f"{name} ({count:,} of {table.num_rows:,} rows)" for name, count in holes.items() if count)
        raise UserError(f"{path}: has no value in {counts}; fill them in, or remove these rows")
    try:
        return table.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise UserError(f"{path}: {error}; its columns must be {_described(schema)}") from error


def _described(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)
