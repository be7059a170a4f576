"""Makes the sight world and its models: what `ssr1-rl sightworld` does."""

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
"""A world with which every stage can be tried in seconds. Its models have learned nothing."""


def make_sight_world_and_models(folder: Path, seed: int = 0, tiny: bool = False) -> None:
    """Makes `folder`/world, `folder`/student, `folder`/teacher and `folder`/verifier; what exists is kept.

    Args:
        seed: of the world and of the models.
        tiny: `TINY`, and two steps of SFT for each model.
    """

    def lesson(usual: Lesson) -> Lesson:
        return replace(usual, num_steps=2, questions_per_step=4) if tiny else usual

    world = make_sight_world(folder / "world", replace(TINY if tiny else SightWorldSettings(), seed=seed))
    student = make_student(world, folder / "student", lesson(PRETRAINING), seed)
    make_teacher(world, folder / "teacher", lesson(TEACHING), seed)
    make_verifier(world, folder / "verifier", student, lesson(VERIFYING), seed)
