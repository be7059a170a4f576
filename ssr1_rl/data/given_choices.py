"""Choices for open questions, made of the answers to other questions of their kind: MUSIC-AVQA has none of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ssr1_rl.data.choices import folded
from ssr1_rl.types import Question


def with_choices(questions: Sequence[Question], path: str) -> tuple[list[Question], tuple[str, ...]]:
    """The questions, those without choices with every answer of their kind, sorted; and notes for the user.

    Kinds with a single answer stay open, and are noted. Answers that differ in case and white space alone are one.
    """
    answers: dict[str, dict[str, str]] = {}
    for question in questions:
        if not question.choices:
            answers.setdefault(question.kind, {}).setdefault(folded(question.ground_truth), question.ground_truth)
    one = [kind for kind, of_kind in answers.items() if len(of_kind) < 2]
    named = ", ".join(kind or "(none)" for kind in one)
    note = f"{path}: questions of these kinds stay open, because they all have one answer: {named}"

    def give(question: Question) -> Question:
        if question.choices or question.kind in one:
            return question
        of_kind = answers[question.kind]
        return replace(
            question, choices=tuple(sorted(of_kind.values())), ground_truth=of_kind[folded(question.ground_truth)]
        )

    return list(map(give, questions)), (note,) if one else ()
