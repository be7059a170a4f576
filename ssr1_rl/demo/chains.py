"""The sound world's teacher: chains of thought from templates, some of them wrong on purpose.

A real vision teacher sometimes hallucinates sounds, and a student that learns from it learns these mistakes too.
This teacher makes fixed mistakes, so that a student is less accurate after SFT than it could be. GRPO, whose
rewards use the true answers, can then improve it.
"""

import numpy as np

from ssr1_rl.demo.scenes import NUMBERS

MISHEARD: dict[str, tuple[str, str]] = {
    "count": ("four", "three"),
    "direction": ("falling", "rising"),
    "timbre": ("rattle", "hiss"),
    "louder": ("second", "first"),
    "pitch": ("low", "high"),
    "length": ("short", "long"),
}
"""For each kind of question that the teacher may mishear: the true answer, and the one that it gives instead."""


def chain_of_thought(kind: str, answer: str) -> str:
    """The response of a teacher that heard `answer`, tags included."""
    return f"<think> I hear {_heard(kind, answer)} </think> <answer> {answer} </answer>"


def taught_answer(kind: str, answer: str, error_rate: float, rng: np.random.Generator) -> str:
    """The teacher's answer to a question whose true answer is `answer`: wrong at `error_rate` if `MISHEARD` has it."""
    truth, mistaken = MISHEARD.get(kind, (None, answer))
    return mistaken if answer == truth and rng.random() < error_rate else answer


def _heard(kind: str, answer: str) -> str:
    if kind == "count":
        return " ".join(NUMBERS[: NUMBERS.index(answer) + 1])
    if kind == "direction":
        return "low then high" if answer == "rising" else "high then low"
    if kind == "louder":
        return "loud then quiet" if answer == "first" else "quiet then loud"
    if kind in ("first", "last"):
        return f"{kind} a {answer}"
    return f"a {answer}" if kind == "timbre" else f"a {answer} tone"
