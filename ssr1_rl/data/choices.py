"""The choices of a question: the labels that a prompt gives them, and which of them an answer names.

The accuracy reward reads the same labels back from a response.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence

from ssr1_rl.data.row_error import RowError, shown

_WRITTEN_LABELS = tuple(
    re.compile(style, re.DOTALL)
    for style in (
        r"\(([A-Za-z])\)\s*(\S.*)",
        r"([A-Za-z])\)\s*(\S.*)",
        r"([A-Za-z])\.\s+(\S.*)",
        r"([A-Za-z]):\s+(\S.*)",
    )
)
_FIRST_LABEL = re.compile(r"\(?[Aa][).:]")
_LABELLED = re.compile(r"(?:\(([A-Za-z])\)|([A-Za-z])[.):]|([A-Za-z])$)\s*(.*)", re.DOTALL)
NOT_A_CHOICE = "answer outside choices"
"""`kind` of the error of a row whose answer is none of its choices."""

_YES, _NO = ("yes", "true"), ("no", "false")


def choice_labels(num_choices: int) -> list[str]:
    """What a prompt calls the choices: A, B, C, … and numbers from 1 if there are more than 26."""
    if num_choices <= len(string.ascii_uppercase):
        return list(string.ascii_uppercase[:num_choices])
    return [str(number) for number in range(1, num_choices + 1)]


def without_labels(choices: Sequence[str]) -> tuple[str, ...]:
    """The choices without the letters that they carry in the file, such as "(A) dog"; the prompt adds its own.

    Only if all choices carry them in one style, from A on: "A. dog", "A) dog", "A: dog" or "(A) dog".
    """
    if not _FIRST_LABEL.match(choices[0]):
        return tuple(choices)
    for style in _WRITTEN_LABELS:
        matches = [match for choice in choices if (match := style.fullmatch(choice))]
        letters = "".join(match[1] for match in matches)
        if len(matches) == len(choices) and letters in (
            string.ascii_uppercase[: len(letters)],
            string.ascii_lowercase[: len(letters)],
        ):
            return tuple(match[2] for match in matches)
    return tuple(choices)


def open_answer(value: object, field: str) -> str:
    """The text of the answer to a question without choices: a text, or a number."""
    if isinstance(value, bool):
        yes_or_no = _YES if value else _NO
        raise RowError(field, f'{value!r} may mean "{yes_or_no[0]}" or "{yes_or_no[1]}"; write the text')
    if isinstance(value, int | float):
        text = str(value)
        if "e" in text:
            raise RowError(field, f"the number {text} is read from many digits; write it as a text")
        return text
    if not isinstance(value, str):
        raise RowError(field, f"expected a text or a number, got {shown(value)}")
    return value


def chosen(value: object, field: str, written: Sequence[str], choices: Sequence[str], index_only: bool = False) -> str:
    """The text of the choice that an answer names.

    An answer is a choice's text (case and white space are ignored), its letter ("B", "(b)"), both ("B. dog"), its
    0-based index as a number, or true or false for choices such as "yes" and "no". The text of a choice takes
    precedence: with the choices "B", "A" the answer "B" is the first.

    Args:
        written: the choices as the file has them, `choices` the same without labels.
        index_only: a number is an index, even if a choice is that number.

    Raises:
        RowError: the answer names no choice, or may name two.
    """
    if isinstance(value, bool):
        return _yes_or_no(value, field, choices)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column with gaps, as pandas writes it
    if isinstance(value, int):
        return _at(value, field, choices, index_only)
    if not isinstance(value, str):
        raise RowError(field, f"expected the text, the letter or the 0-based index of a choice, got {shown(value)}")
    if value in choices:
        return value
    by_text = {folded(choice): choice for choice in reversed(choices)}
    by_written = dict(zip(map(folded, written), choices, strict=True))
    found = by_written.get(folded(value)) or by_text.get(folded(value))
    return found if found is not None else _by_label(value.strip(), field, choices, by_text)


def _at(index: int, field: str, choices: Sequence[str], index_only: bool) -> str:
    equal = [choice for choice in choices if _number(choice) == index]
    by_text = str(index) if str(index) in equal else next(iter(equal), None)
    in_range = 0 <= index < len(choices)
    if by_text is not None and not index_only:
        if in_range and choices[index] != by_text:
            raise RowError(
                field,
                f"{by_text} is the text of a choice, and the 0-based index of another, {choices[index]!r}; "
                f'write "{by_text}" for the choice, or its letter',
            )
        return by_text
    if not in_range:
        reason = f"index {index} is out of range for {len(choices)} choices (they are counted from 0)"
        raise RowError(field, reason, NOT_A_CHOICE)
    return choices[index]


def _number(text: str) -> float | None:
    """The number that a text is; None if it is none."""
    try:
        return float(text)
    except ValueError:
        return None


def _by_label(answer: str, field: str, choices: Sequence[str], by_text: dict[str, str]) -> str:
    unknown = RowError(field, f"{shown(answer)} is not one of the choices {shown(list(choices))}", NOT_A_CHOICE)
    if answer.isdecimal() and len(answer) < 4:
        number = int(answer)
        counted = [choices[at] for at in (number, number - 1) if 0 <= at < len(choices)]
        if counted:
            raise RowError(
                field,
                f"{answer!r} may be {shown(' or '.join(counted))}, counted from 0 or from 1; write the choice's text, "
                "or its 0-based index as a number",
            )
    label = _LABELLED.fullmatch(answer)
    if label is None:
        raise unknown
    letter, text = label[1] or label[2] or label[3], label[4]
    index = string.ascii_lowercase.index(letter.lower())
    is_letter = any(len(choice) == 1 and choice.isalpha() for choice in choices)
    if index >= len(choices) or is_letter:
        raise unknown
    if text and by_text.get(folded(text)) is None:
        raise unknown
    if text and folded(by_text[folded(text)]) != folded(choices[index]):
        raise RowError(
            field,
            f"{shown(answer)} names {choices[index]!r} by its letter and {by_text[folded(text)]!r} by its text; "
            "write the text alone",
        )
    return choices[index]


def _yes_or_no(value: bool, field: str, choices: Sequence[str]) -> str:
    wanted = _YES if value else _NO
    found = [choice for choice in choices if folded(choice) in wanted]
    if len({folded(choice) for choice in found}) != 1:
        raise RowError(
            field, f"{value!r} names none, or several, of the choices {shown(list(choices))}; write the text"
        )
    return found[0]


def folded(text: str) -> str:
    """A text without what does not matter for choices: case, width, and the amount of white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
