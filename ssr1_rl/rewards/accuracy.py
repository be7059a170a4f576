"""The accuracy reward: is the answer inside <answer> </answer> the right one?

There are two rules. "choice" is strict: the answer has to be one option (its letter, number or text) or, for an open
question, the ground truth's text or number. "mmau" is the token rule of MMAU's official evaluation, for scores that can
be compared with published ones. Every response scores 1 or 0; only a question that cannot be scored (its ground truth
is not one of its choices) is an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from ssr1_rl.types import Completion, Question

# A block contains no tags: in "<answer> I take <answer>B</answer>" the block is "B".
_ANSWER_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)
_MMAU_TOKEN = re.compile(r"\b\w+\b")
_NUMERAL = re.compile(r"-?\d+(\.\d+)?")
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# fmt: off
_NUMBER_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)
# fmt: on
_LEADING_WORDS = frozenset({"the", "correct", "answer", "option", "choice", "is"})
# One minus sign for all; no apostrophes ("dont" equals "don't"); a space for a backtick, a symbol in Unicode.
_ONE_SIGN = str.maketrans({"\N{MINUS SIGN}": "-", "\N{RIGHT SINGLE QUOTATION MARK}": "", "'": "", "`": " "})
# Unicode counts these as punctuation, but they carry meaning: C# is not C, 5% is not 5.
_MEANINGFUL_PUNCTUATION = frozenset("#%&@")


def extract_answer(text: str, require_tags: bool = True) -> str:
    """Returns the content of the last <answer> block.

    Without a block: empty if `require_tags`, else the text after the last </think> (the whole text if there is none).
    """
    blocks = _ANSWER_BLOCK.findall(text)
    if blocks:
        return blocks[-1].strip()
    return "" if require_tags else text.rpartition("</think>")[2].strip()


def mmau_match(prediction: str, ground_truth: str, choices: Sequence[str]) -> bool:
    """MMAU's official rule (arXiv 2410.19168, evaluation.py), on sets of lower-case word tokens.

    The prediction is right if it contains every token of the answer, and no token of another choice
    that is not also in the answer. An empty prediction is wrong.
    """
    predicted, answer = _mmau_tokens(prediction), _mmau_tokens(ground_truth)
    wrong = {token for choice in choices for token in _mmau_tokens(choice)} - answer
    return bool(predicted) and answer <= predicted and predicted.isdisjoint(wrong)


def choice_match(answer: str, ground_truth: str, choices: Sequence[str]) -> bool:
    """Whether `answer` is exactly the right option, or the right answer of an open question (no choices).

    Case, white space and punctuation are ignored, and numbers have one form ("Three" == "3.0"). An option may also be
    named by its letter ("B", "(b)", "option B"), by letter and text ("B) dog", if both name the same option) or by its
    number, counted from 1. The text of a choice takes precedence: with the choices "D", "A" the answer "A" is the
    second. A letter alone is not a label if any choice is a single letter, and a number alone is not one if any
    choice contains a number. An answer that names several options is wrong.

    Raises:
        ValueError: the ground truth is empty, or is not one of the choices.
    """
    if not choices and not ground_truth.strip():
        raise ValueError("ground_truth is empty: no answer could be right; fix or remove the row")
    candidates = choices or (ground_truth,)
    right = _find_by_text(ground_truth, candidates)
    if right is None:
        raise ValueError(
            f"ground_truth {ground_truth!r} is not one of the choices {list(choices)!r}: no answer could be right; "
            "fix or remove the row"
        )
    selected = _find_by_text(answer, candidates)
    words = _fold_numbers(answer).split()
    while selected is None and words and words[0] in _LEADING_WORDS:
        words = words[1:]
        selected = _find_by_text(" ".join(words), candidates)
    if selected is None and choices:
        selected = _find_by_label(words, choices)
    return selected is not None and _fold_case(selected) == _fold_case(right)


class Accuracy:
    """1.0 for a right answer, else 0.0.

    Args:
        match: "choice" (letter, number or text of one option) or "mmau" (the official token rule).
        require_tags: whether a response without an <answer> block is wrong; else the text after </think> is its answer.
    """

    def __init__(self, match: str = "choice", require_tags: bool = True) -> None:
        rules: dict[str, Callable[[str, str, Sequence[str]], bool]] = {"choice": choice_match, "mmau": mmau_match}
        if match not in rules:
            raise ValueError(f"match must be one of {sorted(rules)}, got {match!r}")
        if not isinstance(require_tags, bool):
            raise ValueError(f"require_tags must be true or false, got {require_tags!r}")
        self._is_match = rules[match]
        self._require_tags = require_tags

    def __call__(self, question: Question, completions: Sequence[Completion]) -> list[float]:
        answers = [extract_answer(completion.text, self._require_tags) for completion in completions]
        return [float(self._is_match(answer, question.ground_truth, question.choices)) for answer in answers]


def _mmau_tokens(text: str) -> set[str]:
    return set(_MMAU_TOKEN.findall(text.lower()))


def _find_by_text(text: str, candidates: Sequence[str]) -> str | None:
    """The candidate that equals `text` after as little folding as possible; None if none or several do."""
    for fold in (_fold_case, _fold_punctuation, _fold_numbers):
        key = fold(text)
        # Candidates that differ only in case are one answer, so a repeated choice is not ambiguous.
        hits = {_fold_case(candidate): candidate for candidate in candidates if key and fold(candidate) == key}
        if hits:
            return next(iter(hits.values())) if len(hits) == 1 else None
    return None


def _find_by_label(words: Sequence[str], choices: Sequence[str]) -> str | None:
    """The choice that "b", "2" or "b dog" names, if label and text agree. `words` are folded."""
    if not words:
        return None
    index = _index_of_label(words[0])
    if not 0 <= index < len(choices):
        return None
    if len(words) > 1:
        named = _find_by_text(" ".join(words[1:]), choices)
        agrees = named is not None and _fold_case(named) == _fold_case(choices[index])
        return named if agrees else None
    folded_choices = [_fold_numbers(choice).split() for choice in choices]
    if words[0].isdecimal():
        is_ambiguous = any(_NUMERAL.fullmatch(word) for choice in folded_choices for word in choice)
    else:
        is_ambiguous = any(len(choice) == 1 and _index_of_letter(choice[0]) >= 0 for choice in folded_choices)
    return None if is_ambiguous else choices[index]


def _index_of_label(word: str) -> int:
    """0-based index of the option that a letter, or a number from 1, names; -1 if `word` is neither."""
    if word.isdecimal() and len(word) <= 3:  # no label has more digits, and Python limits int(text)
        return int(word) - 1
    return _index_of_letter(word)


def _index_of_letter(word: str) -> int:
    return ord(word) - ord("a") if len(word) == 1 and "a" <= word <= "z" else -1


def _fold_case(text: str) -> str:
    """Folds case, white space and Unicode's compatibility forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _fold_punctuation(text: str) -> str:
    """Like `_fold_case`, with punctuation replaced by spaces unless it is part of a number, a note or a unit."""
    text = _THOUSANDS_COMMA.sub("", _fold_case(text).translate(_ONE_SIGN))
    return " ".join("".join(" " if _separates(text, i) else char for i, char in enumerate(text)).split())


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


def _fold_numbers(text: str) -> str:
    """Like `_fold_punctuation`, with every number in one form: "three", "3" and "3.0" become "3"."""
    return " ".join(_canonical_number(word) for word in _fold_punctuation(text).split())


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
