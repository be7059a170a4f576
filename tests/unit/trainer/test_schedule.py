"""The learning rate by hand, at the ends and in the middle."""

import pytest

from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.trainer.schedule import learning_rate_share


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 0.25, 3: 1.0, 4: 1.0, 9: 1.0, 13: 1.0, 99: 1.0}),
        ("linear", {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.5, 13: 0.1, 14: 0.0, 99: 0.0}),
        ("cosine", {0: 0.25, 3: 1.0, 4: 1.0, 9: 0.5, 13: 0.0244717, 14: 0.0, 99: 0.0}),
    ],
)
def test_a_warm_up_of_4_in_14_updates(schedule, expected):
    config = LearnerConfig(warmup_steps=4, lr_schedule=schedule)
    assert {update: learning_rate_share(config, update, 14) for update in expected} == pytest.approx(expected, abs=1e-6)


def test_a_run_that_is_all_warm_up():
    config = LearnerConfig(warmup_steps=4, lr_schedule="linear")
    assert [learning_rate_share(config, update, 3) for update in range(3)] == [0.25, 0.5, 0.75]


def test_the_rate_may_fall_more_slowly_than_the_run_is_long():
    config = LearnerConfig(warmup_steps=4, lr_schedule="linear", decay_steps=24)
    expected = {3: 1.0, 4: 1.0, 9: 0.75, 13: 0.55}
    assert {update: learning_rate_share(config, update, 14) for update in expected} == pytest.approx(expected)
