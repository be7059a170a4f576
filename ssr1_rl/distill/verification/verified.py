"""The table of verified chains, as Parquet: the rows of the teacher's table, each with its verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.distill.chains import SCHEMA, Chain
from ssr1_rl.distill.verification.verdicts import Judgement
from ssr1_rl.files import replacing

VERIFIED = "verified.parquet"
"""Name of the verifier's table in the folder of a run."""

_CLAIM = pa.struct(
    [
        ("text", pa.string()),
        ("supported", pa.float64()),
        ("contradicted", pa.float64()),
        ("cannot_tell", pa.float64()),
    ]
)
VERIFIED_SCHEMA = pa.schema(
    [
        *SCHEMA,
        ("claims", pa.list_(_CLAIM)),  # each claim and the probabilities of its verdicts
        ("score", pa.float64()),  # null if the chain was not judged
        ("validated", pa.bool_()),
        ("verdict", pa.string()),  # why it is validated, or why not
    ]
)


@dataclasses.dataclass(frozen=True)
class Verified:
    """A chain and what became of it."""

    chain: Chain
    judgement: Judgement  # empty if nothing was asked about it
    score: float | None
    validated: bool
    verdict: str


def write_verified(path: Path, verified: Sequence[Verified]) -> None:
    """Replaces the table as a whole."""
    rows = [
        {
            **dataclasses.asdict(one.chain),
            "claims": [dataclasses.asdict(verdict) for verdict in one.judgement.verdicts],
            "score": one.score,
            "validated": one.validated,
            "verdict": one.verdict,
        }
        for one in verified
    ]
    with replacing(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, VERIFIED_SCHEMA), file, compression="zstd")
