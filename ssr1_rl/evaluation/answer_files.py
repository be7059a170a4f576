"""Writes what a model has answered: a Parquet file per split, and the file that MMAU's official script takes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ssr1_rl.data.records import read_records
from ssr1_rl.data.splits import Split
from ssr1_rl.errors import UserError
from ssr1_rl.evaluation.rules import Reading
from ssr1_rl.evaluation.score import Response
from ssr1_rl.files import replacing, write_json
from ssr1_rl.types import Question

ROWS_PER_BATCH = 1000
MODEL_OUTPUT = "model_output"
"""The key that MMAU's official script reads. It leaves rows without it out of the denominator."""

# The columns answer/<rule> and is_right/<rule> of each rule follow.
SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("source", pa.string()),  # the file and the row
        ("kind", pa.string()),
        ("sample", pa.int64()),  # counted from 0; -1 is the greedy response
        ("ground_truth", pa.string()),
        ("response", pa.string()),
        ("num_tokens", pa.int64()),
        ("finish_reason", pa.string()),
        ("error", pa.string()),  # why there is no response
    ]
)

Write = Callable[[Question, int, Response, Mapping[str, Reading]], None]
"""Adds one response: its question, its sample (or `GREEDY_SAMPLE`), and what each rule reads in it."""


@contextlib.contextmanager
def writing_answers(path: Path, rules: Sequence[str]) -> Iterator[Write]:
    """Replaces the file of a split's answers by what is written inside; after an error or a kill it is as before."""
    more = [pa.field(f"answer/{rule}", pa.string()) for rule in rules]
    more += [pa.field(f"is_right/{rule}", pa.bool_()) for rule in rules]
    schema = pa.schema([*SCHEMA, *more])
    rows: list[dict[str, object]] = []

    def flush(writer: pq.ParquetWriter) -> None:
        writer.write_table(pa.Table.from_pylist(rows, schema))
        rows.clear()

    with replacing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write(question: Question, sample: int, response: Response, readings: Mapping[str, Reading]) -> None:
            rows.append(_row(question, sample, response, readings))
            if len(rows) == ROWS_PER_BATCH:
                flush(writer)

        yield write
        flush(writer)


def _row(question: Question, sample: int, response: Response, readings: Mapping[str, Reading]) -> dict[str, object]:
    return {
        "question_id": _utf8(question.id),
        "source": _utf8(question.source),
        "kind": _utf8(question.kind),
        "sample": sample,
        "ground_truth": _utf8(question.ground_truth),
        "response": _utf8(response.completion.full_text),
        "num_tokens": response.num_tokens,
        "finish_reason": response.completion.finish_reason,
        "error": _utf8(response.error),
        **{f"answer/{rule}": _utf8(reading.answer) for rule, reading in readings.items()},
        **{f"is_right/{rule}": reading.is_right for rule, reading in readings.items()},
    }


def write_mmau(path: Path, split: Split, outputs: Mapping[str, str]) -> int:
    """Writes the rows of an MMAU file as they are, each with the model's answer: "" for one without an answer.

    A choice is written as the row has it, with the letter that the reader takes off ("(A) dog"). Rows that the settings
    of the split leave out (`skip_questions`, `max_questions`, `kinds`) are not written.

    Args:
        path: the file to write.
        split: what was read of the file.
        outputs: answers by the question's id.

    Returns:
        Number of rows that cannot be written, because they are no JSON objects.

    Raises:
        UserError: the file has changed since it was read.
    """
    skipped = {row.row for row in split.skipped}
    questions = iter(split.questions)
    question = next(questions, None)
    written: list[dict[str, object]] = []
    num_left_out = 0
    for record in read_records(split.dataset.path):
        row = record.value if isinstance(record.value, dict) else None
        if record.number in skipped:
            output = ""
        elif row is not None and question is not None and str(row.get("id")) == question.id:
            as_written = dict(zip(question.choices, map(str, row["choices"]), strict=True))
            output = outputs[question.id]
            output, question = as_written.get(output, output), next(questions, None)
        else:
            continue
        if row is None:
            num_left_out += 1
        else:
            written.append({**row, MODEL_OUTPUT: output})
    if question is not None:
        raise UserError(f"{split.dataset.path} has changed since it was read: {question.source}; run the command again")
    write_json(path, written)
    return num_left_out


def _utf8(text: str) -> str:
    r"""The text with each lone surrogate, which JSON allows and Parquet does not, written as \udXXX."""
    return text.encode("utf-8", "backslashreplace").decode()
