"""The tiny models of the sight world, trained by this project's SFT: student, teacher and verifier.

The student is a Qwen2-Audio that can name single sounds and reason about rows of sounds that it reads. The teacher is
an Idefics3 that has learned where companions sound otherwise. The verifier is the student after SFT on claims and on
naming what it hears.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import Progress
from transformers.utils import logging as transformers_logging

from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import choice_lines
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.sightworld.world import TAUGHT, SightWorldPaths
from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio
from ssr1_rl.demo.tiny_vision import build_tiny_idefics3
from ssr1_rl.distill.chains import read_chains
from ssr1_rl.distill.finetuning.alone import train_alone
from ssr1_rl.distill.finetuning.examples import choose_examples
from ssr1_rl.distill.finetuning.loader import PreparerOf, hearing
from ssr1_rl.distill.finetuning.messages import Figures, Message
from ssr1_rl.distill.finetuning.rank import SftJob
from ssr1_rl.distill.generation.vision_preparer import seeing
from ssr1_rl.errors import UserError
from ssr1_rl.files import PARTIAL
from ssr1_rl.store.export import choose_checkpoint, export_checkpoint

TEACHER_SETTINGS = {"frames_per_s": 2.5, "max_frames": 4, "frame_size": 64, "instruction": ""}
"""How the teacher is asked: one frame for each sound, and no instruction, which it has not learned to read."""


@dataclass(frozen=True)
class Lesson:
    """SFT on a split of the world."""

    split: str
    num_steps: int
    learning_rate: float = 1e-3
    questions_per_step: int = 32
    train_tower: bool = True


PRETRAINING = Lesson("pretrain", 1000, learning_rate=1.5e-3)
TEACHING = Lesson("teacher", 2000, learning_rate=1.5e-3, questions_per_step=16)
VERIFYING = Lesson("verifier", 2000, learning_rate=1.2e-3)


def make_student(world: SightWorldPaths, folder: Path, lesson: Lesson = PRETRAINING, seed: int = 0) -> Path:
    """Builds the student and pretrains it, unless `folder` holds it already. Returns the folder."""
    return _learned(folder, world, lesson, seed, lambda start: build_tiny_qwen2_audio(start, _texts(world), seed))


def make_teacher(world: SightWorldPaths, folder: Path, lesson: Lesson = TEACHING, seed: int = 0) -> Path:
    """Builds the teacher and trains it on what is seen, unless `folder` holds it already. Returns the folder."""
    return _learned(folder, world, lesson, seed, lambda start: build_tiny_idefics3(start, _texts(world), seed), seeing)


def make_verifier(
    world: SightWorldPaths, folder: Path, student: Path, lesson: Lesson = VERIFYING, seed: int = 0
) -> Path:
    """Trains the student to judge claims, unless `folder` holds the result already. Returns the folder."""
    return _learned(folder, world, lesson, seed, lambda start: shutil.copytree(student, start))


def _learned(
    folder: Path,
    world: SightWorldPaths,
    lesson: Lesson,
    seed: int,
    build: Callable[[Path], object],
    preparer_of: PreparerOf = hearing,
) -> Path:
    """Trains the model that `build` writes. The run beside `folder` is resumed if it was interrupted."""
    if (folder / "config.json").is_file():
        return folder
    if folder.exists() and any(path.name != PARTIAL for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no model; move it away, or choose another folder")
    transformers_logging.disable_progress_bar()
    run = folder.with_name(f"{folder.name}_sft")
    start = run / "start"
    if not start.is_dir():
        partial = run / ".start.partial"
        shutil.rmtree(partial, ignore_errors=True)
        build(partial)
        partial.replace(start)
    config = _settings(world, lesson, start, run, seed)
    questions = read_questions(config.data.train, config.data.max_skipped_share).questions
    examples = choose_examples(questions, config.sft, config.data.max_skipped_share, seed)
    with Progress() as bars:
        task = bars.add_task(f"SFT of {folder.name}", total=lesson.num_steps)

        def show(message: Message) -> None:
            if isinstance(message, Figures):
                description = f"SFT of {folder.name}, loss {message.metrics['train/loss']:.3f}"
                bars.update(task, completed=message.step, description=description)

        train_alone(SftJob(config, examples.train, [], preparer_of), show)
    export_checkpoint(choose_checkpoint(run, "last"), config.model.path, folder, config.model.dtype)
    return folder


def _settings(world: SightWorldPaths, lesson: Lesson, start: Path, run: Path, seed: int) -> Config:
    data = world.dataset(lesson.split)
    values: dict[str, object] = {
        "run.name": f"{lesson.split}-{seed}",
        "run.dir": run,
        "run.device": "cpu",
        "run.seed": seed,
        "model.path": start,
        "model.dtype": "float32",
        "model.train_audio_tower": lesson.train_tower,
        "data.train.format": data.format,
        "data.train.path": data.path,
        "data.train.audio_dir": data.audio_dir,
        "data.train.video_dir": data.video_dir or "''",
        "data.instruction": "''",
        "teacher.model": start,
        **{f"teacher.{name}": value if value != "" else "''" for name, value in TEACHER_SETTINGS.items()},
        "learner.zero_stage": 0,
        "learner.num_threads": torch.get_num_threads(),
        "learner.learning_rate": lesson.learning_rate,
        "learner.lr_schedule": "linear",
        "learner.warmup_steps": min(30, lesson.num_steps // 2),
        "learner.weight_decay": 0.01,
        "sft.responses": "kept",
        "sft.chains": world.responses(lesson.split),
        "sft.num_epochs": 1000,
        "sft.max_steps": lesson.num_steps,
        "sft.questions_per_step": lesson.questions_per_step,
        "sft.validate_every": 0,
        "checkpoint.every": 100,
        "telemetry.tensorboard": "false",
    }
    return load_sft(None, [f"{name}={value}" for name, value in values.items()])


def _texts(world: SightWorldPaths) -> Iterator[str]:
    """What the models read and write, except in the tests."""
    for split in (*TAUGHT, "train"):
        for question in read_questions(world.dataset(split), max_skipped_share=0.0).questions:
            yield question.text + "".join(choice_lines(question))
    for split in TAUGHT:
        for chain in read_chains(world.responses(split)):
            yield chain.text
