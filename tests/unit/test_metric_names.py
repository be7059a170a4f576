"""docs/metrics.md explains exactly the metrics that a run writes. (tests/e2e checks a real run's file as well.)"""

import inspect
import re

from ssr1_rl.evaluation.validation import Evaluation
from ssr1_rl.grpo import Grpo
from ssr1_rl.telemetry.step_metrics import NotTrained, StepClock, step_metrics
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup, TrainGroup
from tests.metric_names import documented, never_written, rows, undocumented
from tests.unit.trainer.test_totals import summary

UNITS = {
    "advantage",
    "factor",
    "groups",
    "loss",
    "nats",
    "norm",
    "policy versions",
    "questions",
    "rate",
    "ratio",
    "responses",
}
UNITS |= {"0 or 1", "responses/s", "reward", "s", "share", "tokens", "tokens/s"}


class Pool:
    def busy_s(self):
        return [0.0]


def written_by_a_step():
    question = Question("q", "?", "yes")
    completions = tuple(Completion((1,) * n, (-1.0,) * n, "x", "stop") for n in (1, 2))
    group = RolloutGroup(GroupId(0, "q"), question, completions)
    scored = ScoredGroup(group, (1.0, 0.0), {"accuracy": (1.0, 0.0)})
    responses = tuple(c.token_ids for c in completions)
    trained = TrainGroup(group.id, (1,), (), responses, tuple(c.logprobs for c in completions), (0.5, -0.5), 0)
    clock = StepClock(Pool())
    for lap in re.findall(r'clock\.lap\("(\w+)"\)', inspect.getsource(Grpo)):
        clock.lap(lap)
    # What learner group and controller add to the totals.
    learner = summary(([1.0], 1.0), audio_clips=1.0, audio_clips_encoded=1.0) | {"update_s": 1.0, "kl_coefficient": 0.0}
    return step_metrics([scored], [trained], learner, clock, 1, NotTrained()).keys()


def written_by_a_validation():
    evaluation = Evaluation("accuracy", 1.0, {"accuracy": 1.0}, {"count": 1.0}, 4, 0, 0, 0, 10.0, 0.0)
    return {f"validation/test/{name}" for name in evaluation.metrics()}


def test_every_metric_is_documented_and_every_documented_one_is_written():
    written = written_by_a_step() | written_by_a_validation()
    assert len(written) > 50
    assert undocumented(written) == []
    assert never_written(written) == []


def test_every_metric_has_a_unit_and_a_sentence():
    for row in rows():
        assert row.unit in UNITS, row
        assert row.meaning.endswith("."), row
        assert "|" not in row.meaning, row
        for name in row.names:
            assert name.endswith("_per_s") == row.unit.endswith("/s"), row
            assert (name.endswith("_s") and not name.endswith("_per_s")) == (row.unit == "s"), row
            assert row.unit == "share" or "_share" not in name, row


def test_no_metric_is_documented_twice():
    assert len(documented()) == len(set(documented()))


def test_a_name_that_the_page_lacks_is_found():
    assert undocumented(["train/loss", "train/los", "validation/a/b/c"]) == ["train/los", "validation/a/b/c"]
    assert "train/loss" in never_written(["train/entropy"])
