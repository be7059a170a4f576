"""The sound world's teacher: chains of thought by template, right or, as a real teacher's, sometimes misheard.

A vision teacher that writes what must be audible now and then hallucinates, and a student that
learns from it learns its mistakes too. This one mishears in a fixed way, so that a student
taught by SFT stays below what it could hear, and GRPO, which is told the truth, has something to fix.
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
"""For the kinds of question that the teacher is unsure of: an answer, and what it takes it for."""


def chain_of_thought(kind: str, answer: str) -> str:
    """The response of a teacher that heard `answer`, both tags included."""
    return f"<think> I hear {_heard(kind, answer)} </think> <answer> {answer} </answer>"


def taught_answer(kind: str, answer: str, error_rate: float, rng: np.random.Generator) -> str:
    """The teacher's answer where `answer` is right: of those in `MISHEARD` a share of `error_rate` is wrong."""
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
