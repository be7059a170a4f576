"""What the teacher wrote -> chains of thought, and which of them a student may learn from.

A chain must be usable: finished, with an answer that the accuracy reward can read, and thoughts that neither name a
forbidden word nor spell out tags or special tokens. Then `teacher.keep` decides by its answer. Of chains with the same
text the first is kept.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence

from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.distill.chains import Chain, response_text
from ssr1_rl.inference.request import Answer
from ssr1_rl.rewards.accuracy import extract_answer
from ssr1_rl.rewards.choice import choice_match, named_choice
from ssr1_rl.rewards.folding import fold_case
from ssr1_rl.types import Question

FAILED = "failed: "
"""Begins the reason of a chain whose request failed."""

_TAG = re.compile(r"</?(?:think|answer)>")
_SPECIAL = re.compile(r"<\|[^<>|\s]{1,64}\|>")


def judged(question: Question, answers: Sequence[Answer], teacher: TeacherConfig) -> list[Chain]:
    """Every chain of one question, in the order of `answers`, with whether it is kept and why.

    With `teacher.keep=majority` the label is not looked at.
    """
    read = [_read(question, index, answer) for index, answer in enumerate(answers)]
    voted = _with_votes(question, read)
    return _first_of_each(_by_rule(question, voted, teacher), teacher.forbidden_words)


def _read(question: Question, index: int, answer: Answer) -> Chain:
    """The chain with its answer and thoughts; with a reason if it cannot be used."""
    written = answer.full_text
    chain = Chain(question.id, index, written, num_tokens=answer.num_tokens, finish_reason=answer.finish_reason)
    if answer.error:
        return dataclasses.replace(chain, text="", reason=f"{FAILED}{answer.error}")
    if answer.finish_reason == "length":
        return dataclasses.replace(chain, reason="cut off")
    named = extract_answer(written)
    if question.choices:
        named = named_choice(named, question.choices) or ""
    if not named:
        return dataclasses.replace(chain, reason="no answer")
    thoughts = _thoughts(written)
    if _TAG.search(thoughts + named):
        return dataclasses.replace(chain, answer=named, reason="malformed")
    text = response_text(thoughts, named)
    special = _SPECIAL.search(text)
    reason = f"special token: {special[0]}" if special else "" if thoughts else "no thoughts"
    return dataclasses.replace(chain, text=text, thoughts=thoughts, answer=named, reason=reason)


def _thoughts(written: str) -> str:
    """What is inside <think> </think>, or everything before the answer if there are no such tags."""
    before, _, _ = written.rpartition("<answer>")
    if "</think>" in before:
        before, _, _ = before.rpartition("</think>")
    _, opening, inside = before.partition("<think>")
    return (inside if opening else before).strip()


def _with_votes(question: Question, chains: Sequence[Chain]) -> list[Chain]:
    """The chains with the share of all of them that give the same answer."""
    same: Callable[[str, str], bool] = _same_choice if question.choices else _same_text
    shares = [
        sum(bool(chain.answer) and same(other.answer, chain.answer) for other in chains) / len(chains)
        for chain in chains
    ]
    return [dataclasses.replace(chain, vote_share=share) for chain, share in zip(chains, shares, strict=True)]


def _same_choice(answer: str, other: str) -> bool:
    return fold_case(answer) == fold_case(other)


def _same_text(answer: str, other: str) -> bool:
    return bool(other.strip()) and choice_match(answer, other, ())


def _by_rule(question: Question, chains: Sequence[Chain], teacher: TeacherConfig) -> list[Chain]:
    if teacher.keep == "majority":
        return _by_majority(chains, teacher.min_vote_share)
    return [_by_label(question, chain, any_answer=teacher.keep == "all") for chain in chains]


def _by_label(question: Question, chain: Chain, any_answer: bool) -> Chain:
    if chain.reason.startswith(FAILED):
        return chain
    if chain.reason and not chain.answer:
        return dataclasses.replace(chain, is_right=False)
    is_right = choice_match(chain.answer, question.ground_truth, question.choices)
    if chain.reason:
        return dataclasses.replace(chain, is_right=is_right)
    reason = "answered" if any_answer else "right" if is_right else "wrong answer"
    return dataclasses.replace(chain, is_right=is_right, kept=is_right or any_answer, reason=reason)


def _by_majority(chains: Sequence[Chain], min_vote_share: float) -> list[Chain]:
    most = max((chain.vote_share for chain in chains), default=0.0)
    # Answers are as many as the chains that give them would fill: two of two chains each make a tie.
    num_with_most = sum(chain.vote_share == most for chain in chains if chain.answer)
    is_tie = num_with_most > round(most * len(chains))

    def decided(chain: Chain) -> Chain:
        if chain.reason:
            return chain
        if chain.vote_share < most:
            return dataclasses.replace(chain, reason="minority")
        if is_tie:
            return dataclasses.replace(chain, reason="tie")
        if most < min_vote_share:
            return dataclasses.replace(chain, reason="too few votes")
        return dataclasses.replace(chain, kept=True, reason="majority")

    return [decided(chain) for chain in chains]


def _first_of_each(chains: Sequence[Chain], forbidden_words: Sequence[str]) -> list[Chain]:
    """Drops kept chains with a forbidden word, and all but the first of those with the same text."""
    forbidden = _Words(forbidden_words)
    seen = set[str]()
    found: list[Chain] = []
    for chain in chains:
        if chain.kept:
            word, text = forbidden.first_in(chain.thoughts), " ".join(chain.text.split())
            reason = f"forbidden word: {word}" if word else "duplicate" if text in seen else ""
            chain = dataclasses.replace(chain, kept=False, reason=reason) if reason else chain
            seen |= {text} if chain.kept else set()
        found.append(chain)
    return found


class _Words:
    """Words and phrases that are searched for as a whole, in any case and with any white space between their words."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = {_folded(word): word for word in words}
        parts = [r"\s+".join(map(re.escape, word.split())) for word in sorted(self._words, key=len, reverse=True)]
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)" if parts else r"(?!)")

    def first_in(self, text: str) -> str:
        """The first of the words in the text, as the settings write it; empty if there is none."""
        # Four times as fast as a search that ignores case.
        found = self._pattern.search(text.casefold())
        return self._words[_folded(found[0])] if found else ""


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
