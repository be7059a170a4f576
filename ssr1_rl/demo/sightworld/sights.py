"""What is seen while sounds are heard, and where it misleads.

While a sound lasts, the object that makes it is seen. There are three traps:

- A hidden source: nothing is seen.
- A silent object: another object is seen beside the source, and nothing tells which of the two sounds.
- Companions: two objects that are usually seen together. In the part of the world where the teacher learned, always the
  second of them sounds; where the student learns, the first. So the teacher hears the second, by habit.

The first two traps make a teacher err at random, so that another of its chains of thought is right. By habit it errs in
all of them, and wherever the sound occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssr1_rl.demo.scenes import TIMBRES


@dataclass(frozen=True)
class Traps:
    """How often what is seen misleads."""

    hidden_share: float = 0.04  # of the sounds: their source is hidden
    silent_share: float = 0.06  # of the sounds: a silent object is seen beside their source
    together_share: float = 0.75  # of the clips: companions are seen together
    companions: tuple[tuple[str, str], ...] = (("rattle", "whistle"),)  # the one that sounds, and the one "heard"


@dataclass(frozen=True)
class Sight:
    """What is seen of a clip."""

    seen: tuple[tuple[str, ...], ...]  # for each sound, the objects from left to right, by the names of their sounds
    together: bool  # whether companions are seen together in this clip


def see(sounds: Sequence[str], traps: Traps, rng: np.random.Generator, *, where_teacher_learned: bool) -> Sight:
    """Draws what is seen while `sounds` are heard."""
    pairs = [(second, first) for first, second in traps.companions] if where_teacher_learned else traps.companions
    silent = dict(pairs)
    together = bool(rng.random() < traps.together_share)
    return Sight(tuple(_objects(sound, silent if together else {}, traps, rng) for sound in sounds), together)


def _objects(sound: str, silent: dict[str, str], traps: Traps, rng: np.random.Generator) -> tuple[str, ...]:
    chance = rng.random()
    if sound in silent:
        objects = [sound, silent[sound]]
    elif chance < traps.hidden_share:
        objects = []
    elif chance < traps.hidden_share + traps.silent_share:
        objects = [sound, _bystander(sound, traps, rng)]
    else:
        objects = [sound]
    return tuple(objects[i] for i in rng.permutation(len(objects)))


def _bystander(sound: str, traps: Traps, rng: np.random.Generator) -> str:
    """Any other object but a companion: of those the habit is certain."""
    habitual = {name for pair in traps.companions if sound in pair for name in pair}
    others = [name for name in TIMBRES if name != sound and name not in habitual]
    return others[rng.integers(len(others))]
