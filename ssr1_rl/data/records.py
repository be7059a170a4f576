"""A file of questions -> its rows as plain JSON values: a JSON array or JSON lines, in any case perhaps gzipped.

Both layouts are read whatever the `format` of a data set, which only says how the fields of a row are named.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.data.file_kind import other_binary, other_text, to_utf8
from ssr1_rl.data.row_error import RowError
from ssr1_rl.data.strict_json import parse_array, parse_line, starts_with_object_over_lines
from ssr1_rl.errors import UserError

_GZIP = b"\x1f\x8b"
_HEAD = 4096
_KEYS_OF_A_ROW = {"id", "question", "question_text", "question_content", "answer"}


@dataclass(frozen=True)
class Record:
    """A row as it is in the file, or why it cannot be read."""

    number: int  # counted from 1 (in JSON lines the line number)
    value: object | RowError
    source: str = ""  # its file, if a data set has several


def read_records(path: str) -> list[Record]:
    """Reads every row.

    Raises:
        UserError: the file cannot be read, or is not JSON; the message names the file and what it is.
    """
    text = _text(path)
    if not text.strip():
        raise UserError(f"{path}: the file holds no rows; fix the path of the data set, or fetch the file again")
    other = other_text(text, path)
    if other:
        raise UserError(f"{path}: {other}")
    try:
        records = _records(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return records


def _records(text: str) -> list[Record]:
    if text.lstrip().startswith("[") and not _is_lines_of_arrays(text):
        return [Record(number, value) for number, value in enumerate(parse_array(text), start=1)]
    # Not splitlines(): it also breaks at U+2028 and others, which are legal inside JSON strings.
    lines = re.split(r"\r\n|\n|\r", text)
    records: list[Record] = []
    for number, line in enumerate(lines, start=1):
        content = line.strip("\ufeff \t")  # concatenated files have a byte order mark in the middle
        if content:
            records.append(Record(number, _line(content)))
    last = records[-1].value
    # Without a kind it is whole, but refused.
    if isinstance(last, RowError) and last.kind and not text.endswith(("\n", "\r")):
        reason = f"{last.reason}; it is the last line and does not end: if the file was cut there, fetch it again"
        records[-1] = Record(records[-1].number, RowError(last.field, reason, last.kind))
    _refuse_one_object(records, text)
    return records


def _line(content: str) -> object | RowError:
    try:
        return parse_line(content)
    except RowError as error:
        return error


def _is_lines_of_arrays(text: str) -> bool:
    """Whether the first line is an array of its own and more lines follow: JSON lines with rows that are no objects."""
    first, _, rest = text.strip().partition("\n")
    return bool(rest.strip()) and isinstance(_line(first.strip()), list)


def _refuse_one_object(records: list[Record], text: str) -> None:
    """A file that is one object, on one line or on many, holds its rows in one of its keys, if at all."""
    first = records[0].value
    if isinstance(first, RowError) and len(records) > 1:
        first = _line(text.strip())
        if isinstance(first, RowError):
            if starts_with_object_over_lines(text):
                raise UserError("has objects that are spread over several lines; write one per line: jq -c . FILE")
            return
    elif len(records) > 1:
        return
    if isinstance(first, dict) and not first.keys() & _KEYS_OF_A_ROW:
        inner = [key for key, value in first.items() if isinstance(value, list) and not any(map(_is_scalar, value))]
        if inner or (first and all(isinstance(value, dict) for value in first.values())):
            raise UserError(_one_object(first, inner))


def _one_object(value: dict[str, object], inner: list[str]) -> str:
    keys = ", ".join(list(value)[:5])
    fix = f"jq '.{inner[0]}' FILE" if inner else "jq '[.[]]' FILE"
    return (
        f"is one JSON object (with {len(value)} keys: {keys}), not a JSON array or JSON lines of questions; "
        f"write only the rows: {fix}"
    )


def _is_scalar(value: object) -> bool:
    return not isinstance(value, dict | list)


def _text(path: str) -> str:
    data = _bytes(path)
    other = other_binary(data, path)
    if other:
        raise UserError(f"{path}: {other}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: is not UTF-8 text (byte {error.start}, in line {line}); save it as UTF-8, "
            f"from Latin-1 for example with {to_utf8(path, 'LATIN1')}"
        ) from None


def _bytes(path: str) -> bytes:
    file = Path(path)
    if file.is_dir():
        inside = sorted(p.name for p in file.iterdir())
        tables = "huggingface" if {"dataset_dict.json", "state.json"} & set(inside) else "parquet"
        if tables == "huggingface" or any(name.endswith(".parquet") for name in inside):
            raise UserError(f"{path}: is a folder of tables; set the data set's format to {tables}")
        names = [name for name in inside if re.search(r"\.jsonl?(\.gz)?$", name)]
        found = f"such as {file / names[0]}" if names else "but it holds no .json or .jsonl file"
        raise UserError(f"{path}: is a folder; give the file of questions in it, {found}")
    if file.exists() and not file.is_file():
        raise UserError(f"{path}: is a device or a pipe; give a file")
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
            # A wrong path may lead to a file of many gigabytes, which is not read to the end.
            data = head if other_binary(head, path) else head + stream.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); fix the path of the data set") from error
    if not data:
        raise UserError(f"{path}: the file is empty (0 bytes); fetch it again")
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: is a damaged or truncated gzip file ({error}); fetch it again") from error
