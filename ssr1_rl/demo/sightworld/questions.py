"""Questions that need several steps of listening to four sounds in a row: what is asked, and the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.demo.scenes import NUMBERS, TIMBRES

NUM_SOUNDS = 4
"""Sounds of a clip, one after another; each is one of `TIMBRES`."""

YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Asked:
    """What a question asks, however it is worded."""

    kind: str
    about: tuple[str, ...] = ()  # the sounds that it names


@dataclass(frozen=True)
class Kind:
    """One kind of question."""

    options: tuple[str, ...]  # all possible answers
    num_named: int  # how many different sounds a question names
    wordings: tuple[str, ...]
    unseen_wordings: tuple[str, ...]  # of the split unseen_questions: known words in sentences never trained on


KINDS: dict[str, Kind] = {
    "after": Kind(
        TIMBRES,
        1,
        ("What do you hear right after the {}?", "Which sound comes right after the {}?"),
        ("Which sound do you hear right after the {}?", "Which sound is right after the {}?"),
    ),
    "before": Kind(
        TIMBRES,
        1,
        ("What do you hear right before the {}?", "Which sound comes right before the {}?"),
        ("Which sound do you hear right before the {}?", "Which sound is right before the {}?"),
    ),
    "different": Kind(
        NUMBERS,
        0,
        ("How many different sounds do you hear?", "How many different sounds are there?"),
        ("How many sounds are different?", "How many different sounds come?"),
    ),
    "same": Kind(
        YES_NO,
        0,
        ("Is the last sound the same as the first?", "Is the first sound the same as the last?"),
        ("Do you hear the same sound last as first?", "Is the last the same sound as the first?"),
    ),
    "count": Kind(
        NUMBERS,
        1,
        ("How many times do you hear the {}?", "How many times is there the {}?"),
        ("How many times is the {} there?", "How many {} sounds are there?"),
    ),
    "order": Kind(
        YES_NO,
        2,
        ("Does the {} come before the {}?", "Do you hear the {} before the {}?"),
        ("Is the {} before the {}?", "Is there the {} before the {}?"),
    ),
}
"""The kinds with several steps. Each has two wordings: a model trained on a single one knows no other."""

ONE_STEP_KINDS: dict[str, Kind] = {
    "only": Kind(TIMBRES, 0, ("What do you hear?", "Which sound is there?"), ()),
    "first": Kind(TIMBRES, 0, ("What do you hear first?", "Which sound comes first?"), ()),
    "last": Kind(TIMBRES, 0, ("What do you hear last?", "Which sound comes last?"), ()),
    "sounds": Kind(NUMBERS[:2], 0, ("How many sounds do you hear?", "How many sounds are there?"), ()),
}
"""The kinds of the split that the student is pretrained on: clips of one to three sounds."""


def answer_to(asked: Asked, sounds: Sequence[str]) -> str | None:
    """The answer if `sounds` are heard; None if the question has none then, or not a single one."""
    if any(sounds.count(sound) != 1 for sound in asked.about) and asked.kind != "count":
        return None
    at = [sounds.index(sound) for sound in asked.about if sound in sounds]
    match asked.kind:
        case "after":
            return sounds[at[0] + 1] if at[0] + 1 < len(sounds) else None
        case "before":
            return sounds[at[0] - 1] if at[0] > 0 else None
        case "different":
            return NUMBERS[len(set(sounds)) - 1]
        case "same":
            return _yes_no(sounds[0] == sounds[-1])
        case "count":
            times = sounds.count(asked.about[0])
            return NUMBERS[times - 1] if 1 <= times <= len(NUMBERS) else None
        case "order":
            return _yes_no(at[0] < at[1])
        case "only" | "first":
            return sounds[0]
        case "last":
            return sounds[-1]
        case "sounds":
            return NUMBERS[len(sounds) - 1]
    raise AssertionError(f"no such kind of question: {asked.kind}")


def ask(kind: str, rng: np.random.Generator) -> tuple[Asked, tuple[str, ...]]:
    """A question of a kind, and the sounds of a clip for it. Every answer is equally frequent."""
    answer = _one_of(KINDS[kind].options, rng)
    while True:
        sounds = draw_sounds(rng)
        named = rng.permutation(len(TIMBRES))[: KINDS[kind].num_named]
        asked = Asked(kind, tuple(TIMBRES[i] for i in named))
        if answer_to(asked, sounds) == answer:
            return asked, sounds


def ask_one_step(kind: str, rng: np.random.Generator) -> tuple[Asked, tuple[str, ...]]:
    """As `ask`, for a kind of `ONE_STEP_KINDS`."""
    fewest, most = {"only": (1, 1), "sounds": (1, 2)}.get(kind, (2, 3))
    return Asked(kind), draw_sounds(rng, int(rng.integers(fewest, most + 1)))


def draw_sounds(rng: np.random.Generator, num_sounds: int = NUM_SOUNDS) -> tuple[str, ...]:
    """Sounds of a clip in their order, each drawn independently."""
    return tuple(_one_of(TIMBRES, rng) for _ in range(num_sounds))


def worded(asked: Asked, rng: np.random.Generator, unseen: bool = False) -> str:
    """The question in one of its kind's wordings."""
    kind = (KINDS | ONE_STEP_KINDS)[asked.kind]
    return _one_of(kind.unseen_wordings if unseen else kind.wordings, rng).format(*asked.about)


def _yes_no(is_so: bool) -> str:
    return YES_NO[0] if is_so else YES_NO[1]


def _one_of(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
