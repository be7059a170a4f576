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
    num_told_claims=8,
    num_train=24,
    num_validation=8,
    num_test=8,
    num_unseen_scenes=8,
    num_unseen_questions=8,
)
"""A world with which every stage can be tried in a minute or two."""
TINY_STEPS = {"pretrain": 20, "teacher": 120, "verifier": 20}
"""Steps of SFT on its splits: the teacher answers in the right form, and by chance."""


def make_sight_world_and_models(folder: Path, seed: int = 0, tiny: bool = False) -> None:
    """Makes `folder`/world, `folder`/student, `folder`/teacher and `folder`/verifier; what exists is kept.

    Args:
        seed: of the world and of the models.
        tiny: `TINY` with `TINY_STEPS`, only to try that everything runs.
    """

    def lesson(usual: Lesson) -> Lesson:
        return replace(usual, num_steps=TINY_STEPS[usual.split], questions_per_step=8) if tiny else usual

    world = make_sight_world(folder / "world", replace(TINY if tiny else SightWorldSettings(), seed=seed))
    student = make_student(world, folder / "student", lesson(PRETRAINING), seed)
    make_teacher(world, folder / "teacher", lesson(TEACHING), seed)
    make_verifier(world, folder / "verifier", student, lesson(VERIFYING), seed)
