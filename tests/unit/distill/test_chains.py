"""The table of chains: what is written is read again, and other files are refused."""

import dataclasses

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssr1_rl.distill.chains import SCHEMA, Chain, read_chains, write_chains
from ssr1_rl.errors import MissingFile, UserError

CHAINS = [
    Chain("7", 0, "<think> a </think> <answer> b </answer>", "a", "b", True, 0.5, True, "right", 12, "stop"),
    Chain("7", 1, "", reason="failed: 500"),
]


def test_chains_are_read_as_they_were_written(tmp_path):
    write_chains(tmp_path / "chains.parquet", CHAINS)
    assert read_chains(tmp_path / "chains.parquet") == CHAINS
    assert pq.read_schema(tmp_path / "chains.parquet") == SCHEMA
    assert [path.name for path in tmp_path.iterdir()] == ["chains.parquet"]


def test_columns_are_the_fields_of_a_chain():
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Chain)]


def test_no_chains_is_a_table_too(tmp_path):
    write_chains(tmp_path / "chains.parquet", [])
    assert read_chains(tmp_path / "chains.parquet") == []


def test_further_columns_are_left_out(tmp_path):
    table = pa.Table.from_pylist([dataclasses.asdict(CHAINS[0])], SCHEMA).append_column("score", pa.array([0.5]))
    pq.write_table(table, tmp_path / "verified.parquet")
    assert read_chains(tmp_path / "verified.parquet") == CHAINS[:1]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(MissingFile, match=r"gone\.parquet is not a file; run `ssr1-rl distill generate`"):
        read_chains(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(UserError, match=r"text\.parquet: cannot be read as Parquet"):
        read_chains(tmp_path / "text.parquet")
    pq.write_table(pa.table({"text": ["a"], "more": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match=r"has no column question_id, chain, thoughts.* \(it has text, more\)"):
        read_chains(tmp_path / "other.parquet")
    with_holes = pa.Table.from_pylist([{**dataclasses.asdict(chain), "thoughts": None} for chain in CHAINS], SCHEMA)
    pq.write_table(with_holes, tmp_path / "holes.parquet")
    with pytest.raises(UserError, match=r"holes\.parquet: has no value in thoughts \(2 of 2 rows\); fill them in"):
        read_chains(tmp_path / "holes.parquet")
    wrong = pa.Table.from_pylist([dataclasses.asdict(CHAINS[0]) | {"chain": "first"}])
    pq.write_table(wrong, tmp_path / "wrong.parquet")
    with pytest.raises(
        UserError, match=r"wrong\.parquet: .*; its columns must be question_id \(string\), chain \(int64\)"
    ):
        read_chains(tmp_path / "wrong.parquet")
