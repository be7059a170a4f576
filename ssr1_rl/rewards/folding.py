"""Brings answers and choices into one form, so that texts that mean the same are equal.

Each fold includes those before it: case, punctuation, numbers, articles. `choice.py` compares with as little folding as
it can.
"""

from __future__ import annotations

import re
import unicodedata

_NUMERAL = re.compile(r"-?\d+(\.\d+)?")
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
# fmt: on
# One minus sign for all; no apostrophes ("dont" equals "don't"); a space for a backtick, a symbol in Unicode.
_ONE_SIGN = str.maketrans({"\N{MINUS SIGN}": "-", "\N{RIGHT SINGLE QUOTATION MARK}": "", "'": "", "`": " "})
# Unicode counts these as punctuation, but they carry meaning: C# is not C, 5% is not 5.
_MEANINGFUL_PUNCTUATION = frozenset("#%&@")
_LATEX_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textit|textrm|textsf|emph|mathrm|mathbf|mathsf|operatorname|underline)\s*"
    r"\{((?:[^{}]|\{[^{}]*\})*)\}"
)
_LATEX_MATHS = re.compile(r"\\[()\[\]]")
_DOLLARS = re.compile(r"\$([^$]*)\$")
_MAX_NESTING = 4
_LINE_MARKS = re.compile(r"^\s*(?:#+|>)\s+")
_INVISIBLE = {"\N{VARIATION SELECTOR-15}", "\N{VARIATION SELECTOR-16}"}


def unwrapped(text: str) -> str:
    r"""The text without LaTeX's boxes and fonts (`\boxed{\text{B}}`, `$B$`), a heading's `#` and a quotation's `>`."""
    if "\\" in text:
        for _ in range(_MAX_NESTING):
            text = _LATEX_WRAPPER.sub(r" \1 ", text)
        text = _LATEX_MATHS.sub(" ", text)
    return _LINE_MARKS.sub("", _DOLLARS.sub(r" \1 ", text))


def compatible(text: str) -> str:
    """The text in Unicode's compatibility form and lower case, without characters that cannot be seen."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    if folded.isascii():
        return folded
    return "".join(char for char in folded if unicodedata.category(char) != "Cf" and char not in _INVISIBLE)


def fold_case(text: str) -> str:
    """Folds case, white space, invisible characters and Unicode's compatibility forms."""
    return " ".join(compatible(text).split())


def fold_punctuation(text: str) -> str:
    """Like `fold_case`, with punctuation replaced by spaces unless it is part of a number, a note or a unit."""
    text = _THOUSANDS_COMMA.sub("", fold_case(text).translate(_ONE_SIGN))
    return " ".join("".join(" " if _separates(text, i) else char for i, char in enumerate(text)).split())


def fold_numbers(text: str) -> str:
    """Like `fold_punctuation`, with every number in one form: "three", "3" and "3.0" become "3"."""
    return " ".join(_canonical_number(word) for word in fold_punctuation(text).split())


def fold_article(text: str) -> str:
    """Like `fold_numbers`, without an article at the start."""
    return _without_first(fold_numbers(text), ("the", "an", "a"))


def fold_article_but_a(text: str) -> str:
    """Like `fold_article`, for texts in which "a" may be a note or a label."""
    return _without_first(fold_numbers(text), ("the", "an"))


def is_number(word: str) -> bool:
    """Whether a folded word is a number."""
    return bool(_NUMERAL.fullmatch(word))


def _without_first(folded: str, words: tuple[str, ...]) -> str:
    first, _, rest = folded.partition(" ")
    return rest if first in words and rest else folded


def _separates(text: str, index: int) -> bool:
    """Whether the character at `index` is punctuation that separates words."""
    char, before, after = text[index], text[index - 1 : index], text[index + 1 : index + 2]
    if char in _MEANINGFUL_PUNCTUATION or not unicodedata.category(char).startswith("P"):
        return False
    if char == ".":
        return not (before.isdecimal() and after.isdecimal())
    if char == "-":
        return before.isalnum() or not after.isdecimal()
    return True


def _canonical_number(word: str) -> str:
    if not _NUMERAL.fullmatch(word):
        return str(_NUMBER_WORDS.index(word)) if word in _NUMBER_WORDS else word
    sign, digits = ("-", word[1:]) if word.startswith("-") else ("", word)
    # Digit by digit, because different long numbers may be equal as floats. unicodedata: digits of other scripts.
    digits = "".join(char if char == "." else str(unicodedata.decimal(char)) for char in digits)
    whole, _, fraction = digits.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number
