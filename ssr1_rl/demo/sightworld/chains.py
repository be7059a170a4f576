"""Chains of thought on sounds in a row: a claim for each sound, then a conclusion, then the answer.

A conclusion names what it rests on before what follows from it: "The hiss is first and third: two times." A tiny model
learns that in a fraction of the steps that "That is two times the hiss." takes, where it has to count in one token.
"""

from __future__ import annotations

from collections.abc import Sequence

from ssr1_rl.demo.sightworld.questions import Asked, answer_to

ORDINALS = ("first", "second", "third", "fourth")


def response(asked: Asked, heard: Sequence[str]) -> str:
    """The response of a model that heard these sounds, tags included."""
    return f"<think> {thoughts(asked, heard)} </think> <answer> {answer_to(asked, heard)} </answer>"


def thoughts(asked: Asked, heard: Sequence[str]) -> str:
    """What is inside <think> </think>: "First a whistle. Second a hiss. …", then the conclusion."""
    return f"{listing(heard)} {conclusion(asked, heard)}"


def listing(heard: Sequence[str]) -> str:
    """A claim for each sound, in their order."""
    return " ".join(map(claim_of_sound, range(len(heard)), heard))


def claim_of_sound(position: int, sound: str) -> str:
    """The claim that `sound` is heard at a position, counted from 0."""
    return f"{ORDINALS[position].capitalize()} a {sound}."


def conclusion(asked: Asked, heard: Sequence[str]) -> str:
    """The claim from which the answer follows."""
    answer = answer_to(asked, heard)
    assert answer is not None, "a question without an answer has no conclusion"
    at = [ORDINALS[heard.index(sound)] for sound in asked.about]
    match asked.kind:
        case "after" | "before":
            beside = heard.index(asked.about[0]) + (1 if asked.kind == "after" else -1)
            return f"The {asked.about[0]} is {at[0]} and the {answer} {ORDINALS[beside]}."
        case "different":
            different = " and the ".join(dict.fromkeys(heard))
            return f"The {different} make {answer}."
        case "same":
            negation = "" if answer == "yes" else "not "
            return f"The first is a {heard[0]} and the last a {heard[-1]}: {negation}the same."
        case "count":
            sound = asked.about[0]
            positions = " and ".join(ORDINALS[i] for i, other in enumerate(heard) if other == sound)
            return f"The {sound} is {positions}: {answer} times."
        case "order":
            order = "before" if answer == "yes" else "after"
            return f"The {asked.about[0]} is {at[0]} and the {asked.about[1]} {at[1]}: {order}."
    raise AssertionError(f"no chain of thought is written for this kind of question: {asked.kind}")


def is_grounded(thoughts_written: str, asked: Asked, sounds: Sequence[str]) -> bool:
    """Whether every claim of a chain is true of `sounds`. This is the truth by which a verifier is measured."""
    return thoughts_written.split() == thoughts(asked, sounds).split()
