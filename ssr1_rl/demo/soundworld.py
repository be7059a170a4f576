"""Writes a small data set of sounds and questions from a seed, for the demo, benchmarks and tests.

It is AVQA's own JSON with WAV files. Besides `train` and `test` there is a split with unseen scenes (other timbres,
tempo and noise) and one with unseen questions (other wording and sets of choices).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from rich.progress import Progress

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.demo.chains import chain_of_thought, taught_answer
from ssr1_rl.demo.made_once import make_once, write_stamp
from ssr1_rl.demo.scenes import KINDS, Scene, SceneStyle, make_scene
from ssr1_rl.types import SAMPLE_RATE

SPLITS = ("train", "test", "unseen_scenes", "unseen_questions")

WORDINGS: dict[str, tuple[str, ...]] = {
    "count": ("How many beeps are there?", "How many beeps do you hear?"),
    "direction": ("Is the sound rising or falling?", "Do you hear it rising or falling?"),
    "timbre": ("What made the sound?", "What made the sound that you hear?"),
    "louder": ("Which sound is louder?", "Which of the two is louder?"),
    "first": ("Which sound is first?", "What do you hear first?"),
    "last": ("Which sound is last?", "What do you hear last?"),
    "pitch": ("Is the sound high or low?", "Do you hear a high or a low sound?"),
    "length": ("Is the sound long or short?", "Do you hear a long or a short sound?"),
}
"""Questions of every split but unseen_questions. Each kind has two: a model trained on a single wording
memorises it and stays at chance on any other."""

UNSEEN_WORDINGS: dict[str, tuple[str, ...]] = {
    "count": ("In this clip, how many beeps are there?",),
    "direction": ("Is it rising or is it falling?",),
    "timbre": ("Which of these made the sound?",),
    "louder": ("Is the first or the second sound louder?",),
    "first": ("What is the first sound that you hear?",),
    "last": ("What is the last sound that you hear?",),
    "pitch": ("Is it a high or a low sound?",),
    "length": ("Is it a long or a short sound?",),
}
"""Questions of unseen_questions: mostly known words in sentences never trained on."""

USUAL_STYLE = SceneStyle()
UNSEEN_STYLE = SceneStyle(
    noise_level=(0.02, 0.03),
    beep_s=0.16,
    beep_every_s=0.4,
    start_s=0.3,
    second_at_s=1.2,
    click_every_s=0.07,
    buzz_duty=0.3,
    hiss_smoothing=0.5,
    vibrato=0.03,
)
"""Style of the split unseen_scenes."""


@dataclass(frozen=True)
class WorldSettings:
    """Settings of a world. The same settings give the same bytes."""

    seed: int = 0  # of scenes, questions and the order of choices
    num_train: int = 1600  # questions (and clips) of each split
    num_test: int = 240
    num_unseen_scenes: int = 80
    num_unseen_questions: int = 80
    teacher_error_rate: float = 0.7  # share of the answers in `MISHEARD` that the chains of thought get wrong
    style: SceneStyle = USUAL_STYLE
    unseen_style: SceneStyle = UNSEEN_STYLE

    def num_questions(self, split: str) -> int:
        """How many questions one split has."""
        return getattr(self, f"num_{split}")


@dataclass(frozen=True)
class WorldPaths:
    """The folders and files of a world."""

    folder: Path

    @property
    def audio_dir(self) -> Path:
        """Folder of all clips."""
        return self.folder / "audio"

    @property
    def chains(self) -> Path:
        """JSON object: question id -> the teacher's chain of thought and answer, for the train split."""
        return self.folder / "chains.json"

    def questions(self, split: str) -> Path:
        """JSON array of one split's questions."""
        return self.folder / f"{split}.json"

    def dataset(self, split: str) -> DatasetConfig:
        """A split, as the settings of a data set."""
        return DatasetConfig(format="avqa", path=str(self.questions(split)), audio_dir=str(self.audio_dir))


def make_world(folder: Path, settings: WorldSettings) -> WorldPaths:
    """Writes a world if it does not exist. Waits while another process makes the same one.

    The folder is renamed into place when it is complete, so an interrupted world is made again.

    Raises:
        UserError: the folder holds something else, or a world with other settings.
    """
    make_once(folder, settings, "sound world", lambda partial: _write_world(WorldPaths(partial), settings))
    return WorldPaths(folder)


def _write_world(paths: WorldPaths, settings: WorldSettings) -> None:
    paths.audio_dir.mkdir(parents=True)
    chains: dict[str, str] = {}
    next_id = 0
    with Progress(transient=True, disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("making sounds", total=sum(map(settings.num_questions, SPLITS)))
        for split_number, split in enumerate(SPLITS):
            rows: list[dict[str, object]] = []
            for index in range(settings.num_questions(split)):
                # Each clip has its own generator, so that it does not depend on the number of other clips.
                rng = np.random.default_rng([settings.seed, split_number, index])
                kind = KINDS[index % len(KINDS)]
                scene = make_scene(kind, settings.unseen_style if split == "unseen_scenes" else settings.style, rng)
                name = f"{split}_{index:06d}"
                soundfile.write(paths.audio_dir / f"{name}.wav", scene.samples, SAMPLE_RATE, subtype="PCM_16")
                rows.append(_row(next_id, name, kind, scene, split == "unseen_questions", rng))
                if split == "train":
                    taught = taught_answer(kind, scene.answer, settings.teacher_error_rate, rng)
                    chains[str(next_id)] = chain_of_thought(kind, taught)
                next_id += 1
                progress.advance(task)
            paths.questions(split).write_text(json.dumps(rows, indent=1))
    paths.chains.write_text(json.dumps(chains, indent=1))
    write_stamp(paths.folder, settings)


def _row(
    question_id: int, video_name: str, kind: str, scene: Scene, unseen_question: bool, rng: np.random.Generator
) -> dict[str, object]:
    """One object of AVQA's array, with its choices in random order."""
    wordings = (UNSEEN_WORDINGS if unseen_question else WORDINGS)[kind]
    wrong = [option for option in scene.options if option != scene.answer]
    if unseen_question and len(wrong) > 1:
        # Sets of choices never trained on: one or two wrong ones instead of all three.
        wrong = [wrong[i] for i in rng.permutation(len(wrong))[: rng.integers(1, len(wrong))]]
    choices = [*wrong, scene.answer]
    choices = [choices[i] for i in rng.permutation(len(choices))]
    return {
        "id": question_id,
        "video_name": video_name,
        "video_id": question_id,
        "question_text": wordings[rng.integers(len(wordings))],
        "multi_choice": choices,
        "answer": choices.index(scene.answer),
        "question_relation": "Sound",
        "question_type": kind,
    }
