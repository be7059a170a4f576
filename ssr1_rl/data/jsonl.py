"""JSON lines -> questions: one object a line, for data of the user's own.

Fields: `id`; `question`; `answer` (a text, or a 0-based index into `choices`);
optional `choices`; optional `audio` (a path or a list of paths, relative to the
folder of clips); optional `kind`. A line without `audio` is a text-only question.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ssr1_rl.config.schema import DatasetConfig
from ssr1_rl.data.rows import (
    ReadResult,
    RowError,
    choice_at,
    choices_field,
    collect,
    id_field,
    present_field,
    read_text,
    text_field,
)
from ssr1_rl.types import AudioRef, Question


def read_jsonl(config: DatasetConfig) -> ReadResult:
    """Read one split; blank lines are passed over.

    Raises:
        ValueError: the file cannot be read.
    """
    audio_dir = Path(config.audio_dir) if config.audio_dir else Path(config.path).parent
    # Not splitlines(): it also breaks at U+2028 and others, which are legal inside JSON texts.
    lines = read_text(config.path).split("\n")

    def to_question(line_number: int, line: str) -> Question:
        row = _parse(line)
        choices = choices_field(row, "choices") if row.get("choices") is not None else ()
        return Question(
            id=id_field(row),
            text=text_field(row, "question"),
            ground_truth=_answer(row, choices),
            choices=choices,
            audio=_audio(row, audio_dir),
            kind=str(row.get("kind") or ""),
            source=f"{config.path} row {line_number}",
        )

    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return collect(numbered, to_question, source=config.path, max_questions=config.max_questions)


def _parse(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise RowError("line", f"is not JSON at column {error.colno} ({error.msg})") from error
    if not isinstance(row, dict):
        raise RowError("line", f"expected an object, got {type(row).__name__}")
    return row


def _answer(row: dict[str, Any], choices: tuple[str, ...]) -> str:
    """The answer's text."""
    if choices and not isinstance(present_field(row, "answer"), str):
        return choice_at("answer", row["answer"], choices)
    answer = text_field(row, "answer")
    if choices and answer not in choices:
        raise RowError("answer", f"{answer!r} is none of the choices {list(choices)}")
    return answer


def _audio(row: dict[str, Any], audio_dir: Path) -> tuple[AudioRef, ...]:
    value = row.get("audio")
    names = [] if value is None else value if isinstance(value, list) else [value]
    refs: list[AudioRef] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise RowError("audio", f"expected the path of a clip, got {name!r}")
        path = audio_dir / name
        if not path.is_file():
            raise RowError("audio", f"no such file: {path}")
        refs.append(AudioRef(str(path)))
    return tuple(refs)
