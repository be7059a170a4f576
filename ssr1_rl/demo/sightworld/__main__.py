"""Makes the sight world and its models: python -m ssr1_rl.demo.sightworld FOLDER."""

import argparse
from dataclasses import replace
from pathlib import Path

from ssr1_rl.demo.sightworld.models import (
    PRETRAINING,
    TEACHING,
    VERIFYING,
    Lesson,
    make_student,
    make_teacher,
    make_verifier,
)
from ssr1_rl.demo.sightworld.world import SightWorldSettings, make_sight_world

TINY = SightWorldSettings(
    num_pretrain=16,
    num_told=16,
    num_teacher=16,
    num_verifier=8,
    num_train=24,
    num_validation=8,
    num_test=8,
    num_unseen_scenes=8,
    num_unseen_questions=8,
)
"""A world with which every stage can be tried in seconds."""


def main() -> None:
    """Makes FOLDER/world, FOLDER/student, FOLDER/teacher and FOLDER/verifier; what exists is kept."""
    parser = argparse.ArgumentParser(prog="python -m ssr1_rl.demo.sightworld", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the models (default: %(default)s)")
    parser.add_argument("--tiny", action="store_true", help="some clips and steps, to try that it works")
    options = parser.parse_args()
    folder: Path = options.folder
    seed: int = options.seed

    def lesson(usual: Lesson) -> Lesson:
        return replace(usual, num_steps=2, questions_per_step=4) if options.tiny else usual

    settings = replace(TINY if options.tiny else SightWorldSettings(), seed=seed)
    world = make_sight_world(folder / "world", settings)
    student = make_student(world, folder / "student", lesson(PRETRAINING), seed)
    make_teacher(world, folder / "teacher", lesson(TEACHING), seed)
    make_verifier(world, folder / "verifier", student, lesson(VERIFYING), seed)


if __name__ == "__main__":
    main()
