"""Reads the chains that people have labelled as grounded in the audio or not, for `calibrate`.

A row has `question_id`; the chain as `text` (the response, or its thoughts alone) or as `chain`, its number in the
table of chains; and `grounded`, true or false. Optional are labels of single claims, `claims`: a list of mappings with
`text`, as the table of verified chains has it, and `verdict`: supported, contradicted or cannot tell. The file is JSON
lines, a JSON array or Parquet. Every row must be right: a sample is small, and a lost row changes its figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.data.records import read_records
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.distill.chains import Chain
from ssr1_rl.distill.verification.claim_questions import ToJudge
from ssr1_rl.distill.verification.verdicts import OUTCOMES
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.types import Question

_FIELDS = {"question_id", "text", "chain", "grounded", "claims"}
_MAX_SHOWN = 5


@dataclass(frozen=True)
class Labelled:
    """A chain and what people say about it."""

    chain: ToJudge
    grounded: bool
    claims: Mapping[str, str] = field(default_factory=dict)  # one of `OUTCOMES` by the claim's text


def read_labels(path: Path, questions: Sequence[Question], chains: Sequence[Chain]) -> list[Labelled]:
    """Every labelled chain.

    Args:
        path: the file.
        questions: those that the chains may be about.
        chains: the table that a chain's number refers to; may be empty if no row has one.

    Raises:
        UserError: the file cannot be read, or a row is wrong; the first few are named.
    """
    if not path.is_file():
        raise MissingFile(f"verifier.labels {path} is not a file; give the file of labelled chains")
    reader = _Reader({question.id: question for question in questions}, chains)
    found: list[Labelled] = []
    errors: list[str] = []
    for number, value in _rows(path):
        try:
            found.append(reader.read(number, value))
        except RowError as error:
            errors.append(f"  row {number}: {error.field}: {error.reason}")
    if errors:
        shown_errors = "\n".join(errors[:_MAX_SHOWN]) + ("\n  …" if len(errors) > _MAX_SHOWN else "")
        raise UserError(
            f"verifier.labels {path}: {len(errors)} of {len(errors) + len(found)} rows are wrong:\n{shown_errors}\n"
            "fix them, or remove them"
        )
    grounded = sum(labelled.grounded for labelled in found)
    if grounded in (0, len(found)):
        which = "all" if grounded else "none"
        raise UserError(
            f"verifier.labels {path}: {which} of its {len(found)} chains are grounded, so no threshold is better than "
            "another; label chains of both kinds"
        )
    return found


def _rows(path: Path) -> Iterator[tuple[int, object]]:
    if path.suffix != ".parquet":
        yield from ((record.number, record.value) for record in read_records(str(path)))
        return
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"verifier.labels {path}: cannot be read as Parquet ({error}); write the file again") from error
    # A column of another row is null here.
    rows = ({name: value for name, value in row.items() if value is not None} for row in table.to_pylist())
    yield from enumerate(rows, start=1)


class _Reader:
    def __init__(self, questions: Mapping[str, Question], chains: Sequence[Chain]) -> None:
        self._questions = questions
        self._chains = {(chain.question_id, chain.chain): chain for chain in chains}
        self._seen: dict[tuple[str, str], int] = {}

    def read(self, number: int, value: object) -> Labelled:
        """The label in one row."""
        if isinstance(value, RowError):
            raise value
        if not isinstance(value, dict):
            raise RowError(
                "row", f"expected an object with question_id, text or chain, and grounded, got {shown(value)}"
            )
        unknown = value.keys() - _FIELDS
        if unknown:
            raise RowError(min(unknown), f"is no field of a label; known: {', '.join(sorted(_FIELDS))}")
        question = self._question(value.get("question_id"))
        thoughts = self._thoughts(value, question.id)
        grounded = value.get("grounded")
        if not isinstance(grounded, bool):
            raise RowError("grounded", f"expected true or false, got {shown(grounded)}")
        first = self._seen.setdefault((question.id, thoughts), number)
        if first != number:
            raise RowError("text", f"the same chain is labelled in row {first}; remove one of them")
        return Labelled(ToJudge(str(number), question, thoughts), grounded, _claims(value.get("claims", [])))

    def _question(self, value: object) -> Question:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise RowError("question_id", f"expected the id of a question, got {shown(value)}")
        if str(value) not in self._questions:
            raise RowError("question_id", f"data.train has no question {str(value)!r}")
        return self._questions[str(value)]

    def _thoughts(self, value: Mapping[str, object], question_id: str) -> str:
        text, chain = value.get("text"), value.get("chain")
        if (text is None) == (chain is None):
            raise RowError("text", "give the chain either as `text` or as `chain`, its number in the table of chains")
        if chain is not None:
            if isinstance(chain, bool) or not isinstance(chain, int):
                raise RowError("chain", f"expected the number of a chain, got {shown(chain)}")
            if not self._chains:
                raise RowError("chain", "there is no table of chains; set verifier.chains, or give the chain as `text`")
            if (question_id, chain) not in self._chains:
                raise RowError("chain", f"the table of chains has no chain {chain} of question {question_id!r}")
            return self._chains[question_id, chain].thoughts
        if not isinstance(text, str) or not thoughts_of(text):
            raise RowError("text", f"expected the text of a chain, got {shown(text)}")
        return thoughts_of(text)


def _claims(value: object) -> dict[str, str]:
    if not isinstance(value, list):
        raise RowError("claims", f"expected a list, got {shown(value)}")
    found: dict[str, str] = {}
    for entry in value:
        text, verdict = (entry.get("text"), entry.get("verdict")) if isinstance(entry, dict) else (None, None)
        outcome = verdict.strip().replace(" ", "_") if isinstance(verdict, str) else ""
        if not isinstance(text, str) or outcome not in OUTCOMES:
            known = ", ".join(outcome.replace("_", " ") for outcome in OUTCOMES)
            raise RowError("claims", f"expected mappings with text and verdict ({known}), got {shown(entry)}")
        found[" ".join(text.split())] = outcome
    return found


def thoughts_of(text: str) -> str:
    """What is inside <think> </think>; the whole text if there are no such tags."""
    _, opening, inside = text.partition("<think>")
    return (inside.partition("</think>")[0] if opening else text).strip()
