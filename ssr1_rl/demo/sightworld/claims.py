"""Claims about what is heard in a clip, with the verdict on each: what a verifier learns from.

They are the sentences of chains of thought, true and false ones in equal number, and some about what nobody hears.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.demo.scenes import TIMBRES
from ssr1_rl.demo.sightworld.chains import claim_of_sound, conclusion
from ssr1_rl.demo.sightworld.questions import KINDS, Asked, answer_to, draw_sounds

VERDICTS = ("supported", "contradicted", "cannot tell")
"""As `verifier.verdicts` has them."""

CLAIM_QUESTION = "Is this true: {claim}"
"""`verifier.question` for a verifier that has learned from this world."""

_UNHEARD = ("The {} is red", "The {} is on the left", "The {} is behind the {}")
_SHARES = {"sound": 0.6, "conclusion": 0.3, "unheard": 0.1}
"""How often a claim is of each sort. Most claims of a chain are about one sound."""


@dataclass(frozen=True)
class Claim:
    """A sentence about a clip."""

    text: str  # without the full stop, as claims are split
    verdict: str  # one of `VERDICTS`


def draw_claim(sounds: Sequence[str], rng: np.random.Generator) -> Claim:
    """A claim about a clip with these sounds."""
    sort = rng.choice(list(_SHARES), p=list(_SHARES.values()))
    return _DRAW[sort](sounds, rng)


def _of_sound(sounds: Sequence[str], rng: np.random.Generator) -> Claim:
    position = int(rng.integers(len(sounds)))
    claimed = sounds[position] if rng.random() < 0.5 else _other(TIMBRES, sounds[position], rng)
    return _judged(claim_of_sound(position, claimed), claimed == sounds[position])


def _conclusion(sounds: Sequence[str], rng: np.random.Generator) -> Claim:
    """What follows from these sounds or, if false, from as many others."""
    kinds = list(KINDS)
    while True:
        kind = kinds[rng.integers(len(kinds))]
        named = rng.permutation(len(TIMBRES))[: KINDS[kind].num_named]
        asked = Asked(kind, tuple(TIMBRES[i] for i in named))
        if answer_to(asked, sounds) is None:
            continue
        true = conclusion(asked, sounds)
        if rng.random() < 0.5:
            return _judged(true, True)
        others = draw_sounds(rng, len(sounds))
        if answer_to(asked, others) is None or set(conclusion(asked, others).split()) == set(true.split()):
            continue  # "The hiss and the rattle make two." is as true as "The rattle and the hiss make two."
        return _judged(conclusion(asked, others), False)


def _unheard(sounds: Sequence[str], rng: np.random.Generator) -> Claim:
    names = [TIMBRES[i] for i in rng.permutation(len(TIMBRES))]
    return Claim(_UNHEARD[rng.integers(len(_UNHEARD))].format(*names), VERDICTS[2])


def _judged(text: str, is_true: bool) -> Claim:
    return Claim(text.removesuffix("."), VERDICTS[0] if is_true else VERDICTS[1])


def _other(options: Sequence[str], than: str, rng: np.random.Generator) -> str:
    others = [option for option in options if option != than]
    return others[rng.integers(len(others))]


_DRAW: dict[str, Callable[[Sequence[str], np.random.Generator], Claim]] = {
    "sound": _of_sound,
    "conclusion": _conclusion,
    "unheard": _unheard,
}
