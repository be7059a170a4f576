"""Reads JSON lines: one object per line, a format for users' own data.

Fields: `id`; `question`; `answer` (text, or a 0-based index into `choices`);
optional `choices`; optional `audio` (a path or a list of paths, relative to the
folder of clips); optional `kind`. A line without `audio` is a text-only question.
"""

from __future__ import annotations

import json
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.rows import ReadResult, Row, RowError, audio_dir_of, read_rows, read_text
from ssr1_rl.types import AudioRef, Question


def read_jsonl(config: DatasetConfig) -> ReadResult:
    """Reads one split; blank lines are ignored.

    Raises:
        ValueError: the file cannot be read.
    """
    audio_dir = audio_dir_of(config)
    # Not splitlines(): it also breaks at U+2028 and others, which are legal inside JSON strings.
    lines = read_text(config.path).split("\n")

    def to_question(line: str, source: str) -> Question:
        row = _parse(line)
        choices = row.choices("choices") if row.get("choices") is not None else ()
        return Question(
            id=row.id(),
            text=row.text("question"),
            ground_truth=_answer(row, choices),
            choices=choices,
            audio=_audio(row, audio_dir),
            kind=str(row.get("kind") or ""),
            source=source,
        )

    numbered = ((number, line) for number, line in enumerate(lines, start=1) if line.strip())
    return read_rows(config, numbered, to_question)


def _parse(line: str) -> Row:
    try:
        return Row(json.loads(line))
    except json.JSONDecodeError as error:
        raise RowError("line", f"is not JSON at column {error.colno} ({error.msg})") from error


def _answer(row: Row, choices: tuple[str, ...]) -> str:
    """The answer's text."""
    if choices and not isinstance(row.value("answer"), str):
        return row.choice_at("answer", choices)
    answer = row.text("answer")
    if choices and answer not in choices:
        raise RowError("answer", f"{answer!r} is not one of the choices {list(choices)}")
    return answer


def _audio(row: Row, audio_dir: Path) -> tuple[AudioRef, ...]:
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
