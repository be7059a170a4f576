"""Synthesizes sounds, with the answers to questions about them.

A scene is one short clip for one of eight kinds of question, with its possible answers and the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssr1_rl.types import SAMPLE_RATE

NUMBERS = ("one", "two", "three", "four")
TIMBRES = ("whistle", "buzzer", "hiss", "rattle")
STEADY_TIMBRES = TIMBRES[:3]
"""Timbres without gaps, so that their length and loudness are unambiguous."""


@dataclass(frozen=True)
class SceneStyle:
    """How the clips of a split sound, and how difficult they are. Levels are shares of full scale; times in seconds."""

    clip_s: float = 2.0
    noise_level: tuple[float, float] = (0.002, 0.02)  # range of the background noise's standard deviation
    level: tuple[float, float] = (0.25, 0.5)  # range of a sound's amplitude
    loud_level: float = 0.5  # amplitudes of the two sounds that are compared
    quiet_level: float = 0.05
    beep_s: float = 0.2  # length of a counted beep
    beep_every_s: float = 0.45  # from the start of one to the start of the next
    start_s: float = 0.2  # when the first and the second of two sounds start
    second_at_s: float = 1.1
    click_every_s: float = 0.1  # between the clicks of a rattle
    buzz_duty: float = 0.5  # share of the period for which a buzzer's wave is high (0.5: a square wave)
    hiss_smoothing: float = 0.0  # 0 gives white noise; closer to 1, higher frequencies are weaker
    vibrato: float = 0.0  # relative variation of a whistle's pitch, six times per second


@dataclass(frozen=True)
class Scene:
    """One clip, and the answer to its question."""

    samples: np.ndarray  # float64 [num_samples] at 16 kHz, within -1 and 1
    options: tuple[str, ...]  # all possible answers to this kind of question
    answer: str  # the right one


class Canvas:
    """A clip of background noise to which sounds are added."""

    def __init__(self, rng: np.random.Generator, style: SceneStyle) -> None:
        self.rng = rng
        self.style = style
        self.samples = rng.standard_normal(_num_samples(style.clip_s)) * rng.uniform(*style.noise_level)

    def add(self, sound: np.ndarray, at_s: float, level: float | None = None) -> None:
        """Adds `sound` at `at_s`, at a random level unless one is given; what exceeds the clip is cut off."""
        start = _num_samples(at_s)
        amplitude = self.rng.uniform(*self.style.level) if level is None else level
        fitting = sound[: len(self.samples) - start]
        self.samples[start : start + len(fitting)] += amplitude * fitting

    def scene(self, options: tuple[str, ...], answer: str) -> Scene:
        return Scene(np.clip(self.samples, -1, 1), options, answer)

    def pick(self, options: tuple[str, ...]) -> str:
        return options[self.rng.integers(len(options))]

    def sound(self, timbre: str, duration_s: float) -> np.ndarray:
        """float64 [num_samples] of one timbre at full level and random pitch."""
        num_samples = _num_samples(duration_s)
        if timbre == "rattle":
            return self._rattle(num_samples)
        if timbre == "hiss":
            return 0.4 * self._hiss(num_samples)
        phase = self._phase(self.rng.uniform(400, 1000), num_samples)
        if timbre == "buzzer":
            return np.where(phase % 1 < self.style.buzz_duty, 1.0, -1.0) * _envelope(num_samples)
        return np.sin(2 * np.pi * phase) * _envelope(num_samples)

    def tone(self, pitch_hz: float, duration_s: float) -> np.ndarray:
        """float64 [num_samples] of a whistle at a given pitch."""
        num_samples = _num_samples(duration_s)
        return np.sin(2 * np.pi * self._phase(pitch_hz, num_samples)) * _envelope(num_samples)

    def _phase(self, pitch_hz: float, num_samples: int) -> np.ndarray:
        """Number of periods elapsed at each sample."""
        time_s = np.arange(num_samples) / SAMPLE_RATE
        if not self.style.vibrato:
            return pitch_hz * time_s
        return pitch_hz * (time_s - self.style.vibrato * np.cos(12 * np.pi * time_s) / (12 * np.pi))

    def _hiss(self, num_samples: int) -> np.ndarray:
        white = self.rng.standard_normal(num_samples)
        if not self.style.hiss_smoothing:
            return white
        dark = np.convolve(white, self.style.hiss_smoothing ** np.arange(32))[:num_samples]
        return dark / dark.std()

    def _rattle(self, num_samples: int) -> np.ndarray:
        samples = np.zeros(num_samples)
        for start in range(0, num_samples - 90, _num_samples(self.style.click_every_s)):
            samples[start : start + 80] += self.rng.standard_normal(80)
        return samples


def _num_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _envelope(num_samples: int) -> np.ndarray:
    """Fades in and out, so that a tone does not click."""
    return np.hanning(num_samples) ** 0.25


def _count(canvas: Canvas) -> Scene:
    style = canvas.style
    number = int(canvas.rng.integers(1, len(NUMBERS) + 1))
    pitch_hz = canvas.rng.uniform(400, 1000)
    for beep in range(number):
        canvas.add(canvas.tone(pitch_hz, style.beep_s), style.start_s / 2 + beep * style.beep_every_s)
    return canvas.scene(NUMBERS, NUMBERS[number - 1])


def _direction(canvas: Canvas) -> Scene:
    answer = canvas.pick(("rising", "falling"))
    low_hz, high_hz = canvas.rng.uniform(300, 500), canvas.rng.uniform(1500, 2500)
    start_hz, end_hz = (low_hz, high_hz) if answer == "rising" else (high_hz, low_hz)
    duration_s = 1.6
    time_s = np.arange(_num_samples(duration_s)) / SAMPLE_RATE
    sweep = np.sin(2 * np.pi * (start_hz + (end_hz - start_hz) * time_s / (2 * duration_s)) * time_s)
    canvas.add(sweep, canvas.style.start_s)
    return canvas.scene(("rising", "falling"), answer)


def _timbre(canvas: Canvas) -> Scene:
    answer = canvas.pick(TIMBRES)
    canvas.add(canvas.sound(answer, 1.4), canvas.style.start_s)
    return canvas.scene(TIMBRES, answer)


def _louder(canvas: Canvas) -> Scene:
    style = canvas.style
    answer = canvas.pick(("first", "second"))
    timbre = canvas.pick(STEADY_TIMBRES)
    levels = (style.loud_level, style.quiet_level)
    first_level, second_level = levels if answer == "first" else levels[::-1]
    canvas.add(canvas.sound(timbre, 0.6), style.start_s, first_level)
    canvas.add(canvas.sound(timbre, 0.6), style.second_at_s, second_level)
    return canvas.scene(("first", "second"), answer)


def _two_sounds(canvas: Canvas) -> tuple[str, str]:
    first, second = (TIMBRES[i] for i in canvas.rng.permutation(len(TIMBRES))[:2])
    canvas.add(canvas.sound(first, 0.6), canvas.style.start_s)
    canvas.add(canvas.sound(second, 0.6), canvas.style.second_at_s)
    return first, second


def _pitch(canvas: Canvas) -> Scene:
    answer = canvas.pick(("high", "low"))
    pitch_hz = canvas.rng.uniform(1500, 2500) if answer == "high" else canvas.rng.uniform(250, 500)
    canvas.add(canvas.tone(pitch_hz, 1.2), canvas.style.start_s)
    return canvas.scene(("high", "low"), answer)


def _length(canvas: Canvas) -> Scene:
    answer = canvas.pick(("long", "short"))
    canvas.add(canvas.sound(canvas.pick(STEADY_TIMBRES), 1.6 if answer == "long" else 0.3), canvas.style.start_s)
    return canvas.scene(("long", "short"), answer)


_MAKERS: dict[str, Callable[[Canvas], Scene]] = {
    "count": _count,
    "direction": _direction,
    "timbre": _timbre,
    "louder": _louder,
    "first": lambda canvas: canvas.scene(TIMBRES, _two_sounds(canvas)[0]),
    "last": lambda canvas: canvas.scene(TIMBRES, _two_sounds(canvas)[1]),
    "pitch": _pitch,
    "length": _length,
}

KINDS = tuple(_MAKERS)
"""The eight kinds of question."""


def make_scene(kind: str, style: SceneStyle, rng: np.random.Generator) -> Scene:
    """Makes one clip of a kind; the same `rng` state gives the same clip."""
    return _MAKERS[kind](Canvas(rng, style))
