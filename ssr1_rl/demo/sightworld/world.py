"""Writes the world that is heard and seen: AVQA's own JSON with WAV files and silent videos, from a seed.

Splits: `pretrain` (what the student can do before: name single sounds that it hears, and reason about rows of sounds
that it is told in words), `teacher` and `verifier` (what those two models learn from; the verifier's claims are about
sounds that it hears or is told, and it learns to name what it hears), `train`, `validation` (for
choices of settings), and the tests `test`, `unseen_scenes`, `unseen_questions`. No two share a clip.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import Progress

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.demo.made_once import make_once, write_stamp
from ssr1_rl.demo.scenes import Canvas, SceneStyle
from ssr1_rl.demo.sightworld.questions import KINDS, ONE_STEP_KINDS, Asked, ask, ask_one_step
from ssr1_rl.demo.sightworld.rows import Row, claim_row, question_row
from ssr1_rl.demo.sightworld.sights import Traps, see
from ssr1_rl.demo.sightworld.video import write_video
from ssr1_rl.distill.chains import Chain, write_chains
from ssr1_rl.types import SAMPLE_RATE

TESTS = ("test", "unseen_scenes", "unseen_questions")
SPLITS = ("pretrain", "teacher", "verifier", "train", "validation", *TESTS)
NOT_SEEN = ("pretrain", "verifier")
"""Splits without videos."""
WITH_TOLD = ("pretrain", "verifier")
"""Splits with questions about sounds that are told in words, which AVQA's format cannot hold."""
TAUGHT = ("pretrain", "teacher", "verifier")
"""Splits with responses to learn."""


@dataclass(frozen=True)
class RowStyle:
    """How sounds follow one another in a clip."""

    scene: SceneStyle
    start_s: float = 0.04
    every_s: float = 0.4  # from the start of one sound to the start of the next
    sound_s: float = 0.32


USUAL_TRAPS = Traps()
USUAL_STYLE = RowStyle(SceneStyle(clip_s=1.6))
UNSEEN_STYLE = RowStyle(
    SceneStyle(
        clip_s=1.6, noise_level=(0.02, 0.03), click_every_s=0.07, buzz_duty=0.3, hiss_smoothing=0.5, vibrato=0.03
    ),
    start_s=0.08,
    every_s=0.37,
    sound_s=0.29,
)
"""Style of the split unseen_scenes."""


@dataclass(frozen=True)
class SightWorldSettings:
    """Settings of a world. The same settings give the same sounds, frames and questions."""

    seed: int = 0
    num_pretrain: int = 1600  # clips of each split, with one question each
    num_told: int = 6400  # questions about sounds that are told, in the split pretrain
    num_teacher: int = 2000
    num_verifier: int = 1600
    num_train: int = 2400
    num_validation: int = 400
    num_test: int = 400
    num_unseen_scenes: int = 400
    num_unseen_questions: int = 400
    claims_per_clip: int = 4  # of the split verifier, beside one question
    num_told_claims: int = 4000  # claims about sounds that are told, in the split verifier
    traps: Traps = USUAL_TRAPS
    style: RowStyle = USUAL_STYLE
    unseen_style: RowStyle = UNSEEN_STYLE

    def num_clips(self, split: str) -> int:
        """How many clips one split has."""
        return getattr(self, f"num_{split}")


@dataclass(frozen=True)
class SightWorldPaths:
    """The folders and files of a world."""

    folder: Path

    @property
    def audio_dir(self) -> Path:
        """Folder of all clips, without pictures."""
        return self.folder / "audio"

    @property
    def video_dir(self) -> Path:
        """Folder of all videos, without sound."""
        return self.folder / "video"

    @property
    def truth(self) -> Path:
        """JSON object: name of a clip -> what sounds, when, and what is seen meanwhile."""
        return self.folder / "truth.json"

    def questions(self, split: str) -> Path:
        """One split's questions: JSON lines for a split of `WITH_TOLD`, else a JSON array in AVQA's format."""
        return self.folder / (f"{split}.jsonl" if split in WITH_TOLD else f"{split}.json")

    def responses(self, split: str) -> Path:
        """Table of chains for SFT on a split of `TAUGHT`: what the model that learns from it shall answer."""
        return self.folder / f"{split}_chains.parquet"

    def dataset(self, split: str) -> DatasetConfig:
        """A split, as the settings of a data set."""
        return DatasetConfig(
            format="jsonl" if split in WITH_TOLD else "avqa",
            path=str(self.questions(split)),
            audio_dir=str(self.audio_dir),
            video_dir="" if split in NOT_SEEN else str(self.video_dir),
        )


def make_sight_world(folder: Path, settings: SightWorldSettings) -> SightWorldPaths:
    """Writes a world if it does not exist. Waits while another process makes the same one.

    The folder is renamed into place when it is complete, so an interrupted world is made again.

    Raises:
        UserError: the folder holds something else, or a world with other settings.
    """
    make_once(folder, settings, "sight world", lambda partial: _Writer(SightWorldPaths(partial), settings).write())
    return SightWorldPaths(folder)


class _Writer:
    """Writes every split into an empty folder."""

    def __init__(self, paths: SightWorldPaths, settings: SightWorldSettings) -> None:
        self._paths, self._settings = paths, settings
        self._truth: dict[str, object] = {}
        self._next_id = 0

    def write(self) -> None:
        self._paths.audio_dir.mkdir()
        self._paths.video_dir.mkdir()
        with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
            task = progress.add_task("making clips", total=sum(map(self._settings.num_clips, SPLITS)))
            for split_number, split in enumerate(SPLITS):
                rows: list[Row] = []
                for index in range(self._settings.num_clips(split)):
                    # Each clip has its own generator, so that it does not depend on the number of other clips.
                    rng = np.random.default_rng([self._settings.seed, split_number, index])
                    rows += self._clip(split, index, rng)
                    progress.advance(task)
                if split in WITH_TOLD:
                    rows += self._told(split, split_number)
                self._write_split(split, rows)
        self._paths.truth.write_text(json.dumps(self._truth, indent=1))
        write_stamp(self._paths.folder, self._settings)

    def _clip(self, split: str, index: int, rng: np.random.Generator) -> list[Row]:
        """Writes one clip and returns its rows."""
        name = f"{split}_{index:06d}"
        style = self._settings.unseen_style if split == "unseen_scenes" else self._settings.style
        asked, sounds = _draw(split, index, rng)
        samples = render(sounds, style, rng)
        soundfile.write(self._paths.audio_dir / f"{name}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
        truth: dict[str, object] = {
            "sounds": sounds,
            "starts_s": [round(style.start_s + number * style.every_s, 3) for number in range(len(sounds))],
            "asked": asdict(asked),
        }
        if split not in NOT_SEEN:
            sight = see(sounds, self._settings.traps, rng, where_teacher_learned=split == "teacher")
            write_video(self._paths.video_dir / f"{name}.mp4", sight.seen, style.every_s, rng)
            truth |= asdict(sight)
        self._truth[name] = truth
        num_claims = self._settings.claims_per_clip if split == "verifier" else 0
        claims = [claim_row(name, sounds, rng) for _ in range(num_claims)]
        return [*claims, question_row(split, name, asked, sounds, rng)]

    def _told(self, split: str, split_number: int) -> list[Row]:
        """Questions or claims about sounds that are not heard but told."""
        rows: list[Row] = []
        settings = self._settings
        for index in range(settings.num_told if split == "pretrain" else settings.num_told_claims):
            rng = np.random.default_rng([settings.seed, split_number, index, 1])
            asked, sounds = _draw("told", index, rng)
            told = question_row("told", "", asked, sounds, rng) if split == "pretrain" else claim_row("", sounds, rng)
            rows.append(told)
        return rows

    def _write_split(self, split: str, rows: list[Row]) -> None:
        ids = range(self._next_id, self._next_id + len(rows))
        self._next_id = ids.stop
        if split in WITH_TOLD:
            lines = [json.dumps(row.as_jsonl(question_id)) + "\n" for question_id, row in zip(ids, rows, strict=True)]
            self._paths.questions(split).write_text("".join(lines))
        else:
            array = [row.as_avqa(question_id) for question_id, row in zip(ids, rows, strict=True)]
            self._paths.questions(split).write_text(json.dumps(array, indent=1))
        if split in TAUGHT:
            chains = [
                Chain(str(question_id), 0, row.response, kept=True) for question_id, row in zip(ids, rows, strict=True)
            ]
            write_chains(self._paths.responses(split), chains)


def _draw(split: str, index: int, rng: np.random.Generator) -> tuple[Asked, tuple[str, ...]]:
    """The question of a clip, and its sounds. Kinds take turns."""
    kinds = list(ONE_STEP_KINDS if split == "pretrain" else KINDS)
    return (ask_one_step if split == "pretrain" else ask)(kinds[index % len(kinds)], rng)


def render(sounds: tuple[str, ...], style: RowStyle, rng: np.random.Generator) -> np.ndarray:
    """Samples of a clip, float64 [num_samples] at 16 kHz, within -1 and 1."""
    canvas = Canvas(rng, style.scene)
    for number, sound in enumerate(sounds):
        canvas.add(canvas.sound(sound, style.sound_s), style.start_s + number * style.every_s)
    return np.clip(canvas.samples, -1, 1)
