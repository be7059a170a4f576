"""What SFT learns: the questions of data.train with the responses that the settings choose, and those held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.distill.chains import read_table
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.types import Question

FLAG = {"validated": "validated", "kept": "kept"}
"""The column that says whether a chain is learned, by `sft.responses`."""
FIXES = {
    "validated": "run `ssr1-rl distill verify` and give its verified.parquet, or set sft.responses=kept",
    "kept": "give the chains.parquet of `ssr1-rl distill generate`",
}


@dataclass(frozen=True)
class Example:
    """A question and the responses to learn, as texts. They are packed behind one prompt."""

    question: Question
    responses: tuple[str, ...]


@dataclass(frozen=True)
class Examples:
    """What a run learns from."""

    train: list[Example]
    held_out: list[Example]  # for the validation loss
    notes: list[str]  # what was left out, for the user

    @property
    def num_responses(self) -> int:
        """Responses to learn."""
        return sum(len(example.responses) for example in self.train)


def choose_examples(questions: Sequence[Question], sft: SftConfig, max_skipped_share: float, seed: int) -> Examples:
    """The examples of these questions, by `sft.responses`.

    Raises:
        UserError: the file of chains is missing or is none, more than `max_skipped_share` of its chains belong to no
            question, or too little is left.
    """
    if sft.responses == "labels":
        found, notes = _labels(questions, sft.label_template), []
    else:
        found, notes = _chains(questions, sft, max_skipped_share)
    train, held_out = _hold_out(found, sft.validation_share if sft.validate_every else 0.0, seed)
    if not train:
        raise UserError(
            f"sft.validation_share={sft.validation_share:g} holds out all of the {len(found)} questions; lower it"
        )
    return Examples(train, held_out, notes)


def _labels(questions: Sequence[Question], template: str) -> list[Example]:
    return [Example(q, (template.replace("{answer}", q.ground_truth),)) for q in questions]


def _chains(questions: Sequence[Question], sft: SftConfig, max_skipped_share: float) -> tuple[list[Example], list[str]]:
    path, flag = Path(sft.chains), FLAG[sft.responses]
    rows = _read(path, flag)
    chosen = [row for row in rows if row[flag] and str(row["text"]).strip()]
    known = {question.id for question in questions}
    usable = [row for row in chosen if row["question_id"] in known]
    strange = len(chosen) - len(usable)
    if strange and (not usable or strange > max_skipped_share * len(chosen)):
        example = next(row["question_id"] for row in chosen if row["question_id"] not in known)
        raise UserError(
            f"sft.chains {path}: {strange:,} of {len(chosen):,} chains belong to no question of data.train, more than "
            f"data.max_skipped_share={max_skipped_share:g}; question {example!r} for example. Give the data that the "
            "chains were written for (data.train.path, skip_questions, max_questions), or raise data.max_skipped_share"
        )
    if not usable:
        raise UserError(
            f"sft.chains {path}: none of {len(rows):,} chains can be learned with sft.responses={sft.responses} "
            f"({_why(rows, flag)}); set sft.responses=kept or labels, or write more chains"
        )
    texts = _by_question(usable, sft.max_chains_per_question)
    found = [Example(question, texts[question.id]) for question in questions if question.id in texts]
    notes = [
        f"{len(usable):,} of {len(rows):,} chains are {sft.responses}, of {len(found):,} of {len(questions):,} "
        "questions; questions without one are not learned"
    ]
    if strange:
        notes.append(f"{strange:,} chains belong to no question of data.train and are left out")
    return found, notes


def _read(path: Path, flag: str) -> list[dict[str, object]]:
    if not path.is_file():
        raise MissingFile(f"sft.chains {path} is not a file (looked for in {Path.cwd()}); {FIXES[flag]}")
    fields = [("question_id", pa.string()), ("chain", pa.int64()), ("text", pa.string()), (flag, pa.bool_())]
    try:
        table = read_table(path, pa.schema(fields))
    except UserError as error:
        raise UserError(f"sft.chains: {error}; {FIXES[flag]}") from error
    return sorted(table.to_pylist(), key=lambda row: (row["question_id"], row["chain"]))


def _by_question(rows: Sequence[Mapping[str, object]], most: int) -> dict[str, tuple[str, ...]]:
    texts: dict[str, tuple[str, ...]] = {}
    for row in rows:
        of_question = texts.setdefault(str(row["question_id"]), ())
        if not most or len(of_question) < most:
            texts[str(row["question_id"])] = (*of_question, str(row["text"]))
    return texts


def _why(rows: Sequence[Mapping[str, object]], flag: str) -> str:
    counts = Counter(str(row[flag]).lower() for row in rows)
    return ", ".join(f"{flag}={value}: {count:,}" for value, count in counts.items()) or "the file is empty"


def _hold_out(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Splits off `share` of the examples, at least one, in an order that only seed and ids decide."""
    num = max(1, round(share * len(examples))) if share else 0
    ranked = sorted(examples, key=lambda example: _digest(example.question.id, seed))
    held_out = {example.question.id for example in ranked[:num]}
    return (
        [example for example in examples if example.question.id not in held_out],
        [example for example in examples if example.question.id in held_out],
    )


def _digest(question_id: str, seed: int) -> bytes:
    return hashlib.blake2b(question_id.encode(), key=f"{seed}/held out".encode(), digest_size=8).digest()
