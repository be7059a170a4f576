"""The rule "choice" of the accuracy reward: does an answer name exactly the right option?

The whole answer has to be read: a phrase such as "the chosen option is", then an option by its label, its text or both.
Nothing is searched for inside a longer text, so a negation, a second option or a reason makes an answer wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from ssr1_rl.data.choices import choice_labels
from ssr1_rl.rewards.folding import (
    compatible,
    fold_article,
    fold_article_but_a,
    fold_case,
    fold_numbers,
    fold_punctuation,
    is_number,
    unwrapped,
)

_CHOOSE = "(?:choose|chose|pick|picked|select|selected)"
_NOUN = "(?:answer|option|choice|response|solution|selection|letter|label)"
_ADJECTIVE = "(?:final|correct|right|best|chosen|selected|most likely|likely)"
_IS = "(?:is|was|would be|should be|must be)"
# In folded words. An adjective needs its noun: with the choices "left" and "right", "right is left" names neither.
_LEAD = re.compile(
    "(?:so|thus|therefore|hence|then|ok|okay"
    f"|(?:i|we)(?: would| will)? (?:{_CHOOSE}|go with)"
    f"|(?:(?:the|my|our|this) )?(?:{_ADJECTIVE} )*{_NOUN}(?: (?:that )?(?:i|we) {_CHOOSE})?(?: {_IS})?(?: that)?"
    f"|(?:it|this|that) {_IS}|its) "
)
_TAIL = re.compile(f" (?:{_IS} )?(?:(?:the|my) )?(?:{_ADJECTIVE} )*(?:answer|option|choice)$| is (?:correct|right)$")
_LABEL_AT_END = re.compile(
    r"^(.*\S)\s*(?:[(\[{]\s*(?:option |choice )?(\w{1,3})\s*[)\]}]|\b(?:option|choice)\W*(\w{1,3}))\W*$", re.DOTALL
)
# "a" as a label: before punctuation or at the end of a line. Else it may be an article.
_A_AS_LABEL = re.compile(r"(?<![^\W_])a(?:[^\w\s]|_|\s*\n|\s+[^\w\s*_`\"'“‘])")
_MARKUP = " \t\r\n*_`\"'“”‘’"
# A note or a key: "A minor" is not "minor". Besides these, a choice that starts with another letter: "C minor".
_AFTER_A_NOTE = re.compile(
    r"\ba(?: flat| sharp| natural)? (?:major|minor|flat|sharp|natural|chord|note|string|key|scale)\b"
)
_OTHER_LETTER = re.compile(r"[b-z][#♭♯]?(?: |$)")

_MAX_MORE_CHARACTERS = 2000
"""How much longer than its longest choice an answer may be. Some searches take the square of its length. A longer one
is not cut: what is left of "not B, …, B" might be right."""

Fold = Callable[[str], str]


def choice_match(answer: str, ground_truth: str, choices: Sequence[str]) -> bool:
    r"""Whether `answer` is exactly the right option, or the right answer of an open question (no choices).

    Case, white space, punctuation, markup (`**B**`, `\boxed{B}`), invisible characters and an article at the start are
    ignored, and numbers have one form ("Three" == "3.0"). An option may also be named by its letter ("B", "(b)",
    "option B"), by letter and text ("B) dog", "dog (B)", if both name the same option) or by its number, counted from
    1; more than 26 choices have only numbers. The text of a choice takes precedence: with the choices "D", "A" the
    answer "A" is the second. A letter alone is not a label if any choice is a single letter, and a number alone is not
    one if any choice contains a number. An answer that names several options is wrong, and so is one that is over 2,000
    characters longer than the longest choice.

    Raises:
        ValueError: the ground truth is empty, or is not one of the choices.
    """
    if not choices and not ground_truth.strip():
        raise ValueError("ground_truth is empty: no answer could be right; fix or remove the row")
    candidates = choices or (ground_truth,)
    right = _find_by_text(ground_truth, candidates, _EXACT_FOLDS)
    if right is None:
        raise ValueError(
            f"ground_truth {ground_truth!r} is not one of the choices {list(choices)!r}: no answer could be right; "
            "fix or remove the row"
        )
    selected = _Reader(candidates, has_labels=bool(choices)).read(answer)
    return selected is not None and fold_case(selected) == fold_case(right)


def named_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that `answer` names, by the rules of `choice_match`; None if it names none, or not clearly one."""
    return _Reader(choices, has_labels=True).read(answer) if choices else None


class _Reader:
    """Reads an answer as one of the candidates; None if it is none of them, or not clearly one."""

    def __init__(self, candidates: Sequence[str], has_labels: bool) -> None:
        self._candidates = candidates
        # As the prompt calls the choices: letters, or numbers if there are many.
        self._labels = [label.casefold() for label in choice_labels(len(candidates))] if has_labels else []
        self._folded = [fold_numbers(candidate) for candidate in candidates]
        self._max_characters = _MAX_MORE_CHARACTERS + max(map(len, candidates))

    def read(self, answer: str) -> str | None:
        found = _find_by_text(answer, self._candidates, _AS_WRITTEN)
        if found is not None or len(answer.strip()) > self._max_characters:
            return found
        plain = unwrapped(answer)
        visible, words = compatible(plain).strip(_MARKUP), fold_numbers(plain)
        a_is_a_label = bool(_A_AS_LABEL.search(visible))
        folds = self._folds(words, a_is_a_label)
        for text in (answer, plain, *self._without_phrases(words)):
            # "(A) dog" is not the choice "a dog".
            found = None if a_is_a_label and fold_numbers(text).startswith("a ") else self._by_text(text, folds)
            if found is not None:
                return found
        first = (self._by_label_first(text.split(), folds) for text in self._without_phrases(words))
        readings = [*first, self._by_label_last(visible, folds)]
        named = {fold_case(reading): reading for reading in readings if reading is not None}
        return next(iter(named.values())) if len(named) == 1 else None

    def _without_phrases(self, words: str) -> list[str]:
        """`words`, then without the phrases at its start, one by one, then each of these without that at its end."""
        found = [words]
        while (lead := _LEAD.match(found[-1])) and len(found) < 4:
            found.append(found[-1][lead.end() :])
        shorter = []
        for text in found:
            tail = _TAIL.search(text)
            # With the choices "left" and "right", "left is right" may name either.
            if tail and not any(f" {choice} " in f"{tail[0]} " for choice in self._folded):
                shorter.append(text[: tail.start()])
        return found + shorter

    def _folds(self, words: str, a_is_a_label: bool) -> Sequence[tuple[Fold, Fold]]:
        """How to compare an answer with a candidate: pairs of their folds."""
        are_notes = any(_AFTER_A_NOTE.match(choice) or _OTHER_LETTER.match(choice) for choice in self._folded)
        if are_notes or _AFTER_A_NOTE.search(words):
            return [*_EXACT_FOLDS, (fold_article_but_a, fold_article_but_a)]
        return [*_EXACT_FOLDS, (fold_article_but_a if a_is_a_label else fold_article, fold_article)]

    def _by_text(self, text: str, folds: Sequence[tuple[Fold, Fold]]) -> str | None:
        return _find_by_text(text, self._candidates, folds)

    def _by_label_first(self, words: Sequence[str], folds: Sequence[tuple[Fold, Fold]]) -> str | None:
        """The choice that "b", "2" or "b dog" names, if label and text agree."""
        index = self._index_of_label(words[0]) if words else -1
        if index < 0:
            return None
        if len(words) > 1:
            return self._agreed(" ".join(words[1:]), index, folds)
        if words[0].isdecimal():
            whole = "1" in self._labels
            is_ambiguous = any(
                is_number(word) and (not whole or word == choice) for choice in self._folded for word in choice.split()
            )
        else:
            is_ambiguous = any(len(choice) == 1 and "a" <= choice <= "z" for choice in self._folded)
        return None if is_ambiguous else self._candidates[index]

    def _by_label_last(self, visible: str, folds: Sequence[tuple[Fold, Fold]]) -> str | None:
        """The choice that "dog (B)" or "dog, option B" names, if text and label agree."""
        match = _LABEL_AT_END.match(visible)
        if not match:
            return None
        index = self._index_of_label(match[2] or match[3])
        texts = self._without_phrases(fold_numbers(match[1])) if index >= 0 else []
        return next((found for text in texts if (found := self._agreed(text, index, folds)) is not None), None)

    def _agreed(self, text: str, index: int, folds: Sequence[tuple[Fold, Fold]]) -> str | None:
        named = self._by_text(text, folds)
        agrees = named is not None and fold_case(named) == fold_case(self._candidates[index])
        return named if agrees else None

    def _index_of_label(self, word: str) -> int:
        """0-based index of the choice that a letter, or a number from 1, names; -1 if `word` names none."""
        if word in self._labels:
            return self._labels.index(word)
        # No label has more digits, and Python limits int(text).
        index = int(word) - 1 if self._labels and word.isdecimal() and len(word) <= 4 else -1
        return index if index < len(self._candidates) else -1


def _find_by_text(text: str, candidates: Sequence[str], folds: Sequence[tuple[Fold, Fold]]) -> str | None:
    """The candidate that equals `text` after as little folding as possible; None if none or several do."""
    for fold_text, fold_candidate in folds:
        key = fold_text(text)
        # Candidates that differ only in case are one answer, so a repeated choice is not ambiguous.
        hits = {fold_case(candidate): candidate for candidate in candidates if key and fold_candidate(candidate) == key}
        if hits:
            return next(iter(hits.values())) if len(hits) == 1 else None
    return None


def _unwrapped_numbers(text: str) -> str:
    return fold_numbers(unwrapped(text))


_AS_WRITTEN: Sequence[tuple[Fold, Fold]] = ((fold_case, fold_case),)
_EXACT_FOLDS: Sequence[tuple[Fold, Fold]] = (
    *_AS_WRITTEN,
    (fold_punctuation, fold_punctuation),
    (fold_numbers, fold_numbers),
    (_unwrapped_numbers, _unwrapped_numbers),
)
