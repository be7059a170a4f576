"""JSON without what Python's reader changes silently or dies of; every error is the error of one row.

Python's own reader takes NaN, keeps the last of two equal keys, reads 1e999 as infinite, and ends with errors of its
own at a number of 5,000 digits or 1,000 nested brackets.
"""

from __future__ import annotations

import json
import math
import re

from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.errors import UserError

MAX_DEPTH = 100
"""Brackets in brackets that a row may have: deeper ones could be read, but not be pickled for a reward actor."""

# A string without a line break, or a single character that opens, separates or closes. A quote that is never closed
# is passed over, so that it spoils its own row and not the rest of the file.
_STRUCTURE = re.compile(r'"[^"\\\n\r]*(?:\\.[^"\\\n\r]*)*"|[\[\]{},]')


class _Refused(ValueError):
    """Legal for Python's reader, but not JSON, or changed by reading it."""


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in row if keys.count(key) > 1)
        raise _Refused(f"has the key {shown(twice)} twice; remove one of them")
    return row


def _refuse_constant(name: str) -> object:
    raise _Refused(f"{name} is not JSON; write null, or leave the key out")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused(f"the number {shown(digits)} is too large; write it as a text")
    return number


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # Python's limit
        raise _Refused(f"a number of {len(digits):,} digits is too long; write it as a text") from None


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole
)


def parse_line(line: str) -> object:
    """The value of a line of JSON lines.

    Raises:
        RowError: the line is not JSON, or holds what cannot be kept as it is.
    """
    return _parse(line, "line", line, 0)


def parse_array(text: str) -> list[object | RowError]:
    """The elements of a JSON array, with a `RowError` for each that cannot be read.

    Raises:
        UserError: the array does not end, or text follows it.
    """
    try:
        value = _DECODER.decode(text)
    except (ValueError, RecursionError):
        value = None
    if isinstance(value, list):
        return [_checked_depth(element) for element in value]
    # One element is wrong: take them one by one, which is slower.
    elements: list[object | RowError] = []
    for start, end in _spans(text):
        try:
            elements.append(_parse(text[start:end], "row", text, start))
        except RowError as error:
            elements.append(error)
    return elements


def starts_with_object_over_lines(text: str) -> bool:
    """Whether the first value of a text is a whole object that ends on another line than it starts."""
    text = text.lstrip("\ufeff \t\r\n")
    try:
        value, end = _DECODER.raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(re.search(r"[\r\n]", text[:end]))


def _checked_depth(value: object) -> object | RowError:
    return _too_deep() if _is_too_deep(value) else value


def _parse(piece: str, what: str, text: str, start: int) -> object:
    try:
        value = _DECODER.decode(piece)
    except json.JSONDecodeError as error:
        at = start + error.pos
        column = at - (text.rfind("\n", 0, at) + 1) + 1
        line = f"line {text.count(chr(10), 0, at) + 1} " if what == "row" else ""
        raise RowError(what, f"is not JSON at {line}column {column} ({error.msg})", error.msg) from None
    except _Refused as error:
        raise RowError(what, str(error)) from None
    except RecursionError:
        raise _too_deep() from None
    if piece.count("[") + piece.count("{") > MAX_DEPTH and _is_too_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> RowError:
    return RowError("row", f"is nested more than {MAX_DEPTH} levels deep; leave it out")


def _is_too_deep(value: object, left: int = MAX_DEPTH) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return left == 0 or any(type(v) in (dict, list) and _is_too_deep(v, left - 1) for v in inner)


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the elements of the array that `text` holds start and end."""
    spans: list[tuple[int, int]] = []
    depth, start = 0, 0
    for match in _STRUCTURE.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            start = match.end() if depth == 1 else start
        elif depth == 1 and token in ",]}":
            if token == "," or text[start : match.start()].strip():
                spans.append((start, match.start()))
            start = match.end()
        if token in "]}":
            depth -= 1
            if depth == 0:
                if text[match.end() :].strip():
                    line = text.count("\n", 0, match.end()) + 1
                    raise UserError(f"line {line}: text follows the end of the JSON array; remove it")
                return spans
    line = text.count("\n", 0, start) + 1
    raise UserError(f"ends in the middle of row {len(spans) + 1}, which starts at line {line}; fetch the file again")
