"""The figures of one step, by hand."""

from dataclasses import replace

import pytest

from ssr1_rl.telemetry.step_metrics import NotTrained, StepClock, step_metrics
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup, TrainGroup, VersionSpan


class Pool:
    """A double: seconds that each worker has been busy."""

    def __init__(self):
        self.seconds = [100.0, 50.0]

    def busy_s(self):
        return list(self.seconds)


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("ssr1_rl.telemetry.step_metrics.time.monotonic", lambda: now[0])
    pool = Pool()
    clock = StepClock(pool)
    for name, seconds in (("rollout_wait_s", 6.0), ("update_s", 3.0), ("sync_s", 1.0)):
        now[0] += seconds
        clock.lap(name)
    pool.seconds = [108.0, 52.0]
    now[0] += 99.0  # after the last lap nothing counts
    return clock


def completion(num_tokens, versions, finish_reason="stop"):
    spans, start = [], 0
    for version, count in versions:
        spans.append(VersionSpan(version, start, start + count))
        start += count
    return Completion((1,) * num_tokens, (-1.0,) * num_tokens, "x", finish_reason, tuple(spans))


def scored(rewards, completions, **breakdown):
    group = RolloutGroup(GroupId(0, "q"), Question("q", "?", "yes"), tuple(completions))
    return ScoredGroup(group, rewards, breakdown)


@pytest.fixture
def metrics(clock):
    broken = replace(completion(20, [(3, 20)]), logprobs=(float("nan"), 0.5, *(-1.0,) * 18))
    groups = [
        scored(
            (1.0, 0.0), [completion(10, [(4, 10)]), completion(30, [(4, 30)], "length")], accuracy=(1, 0), format=(0, 0)
        ),
        scored((0.3, 0.1 + 0.2), [broken, completion(20, [(3, 20)])], accuracy=(0, 0), format=(1, 1)),
    ]
    batch = [trained((1.5, -0.5), (10, 30), (True, False)), trained((0.5, -0.5), (20, 20), (True, True))]
    learner = {"update_s": 2.5, "row_tokens": 500.0, "computed_tokens": 125.0, "loss": 0.25}
    return step_metrics(groups, batch, learner, clock, step=5, not_trained=NotTrained(2, True, 1, 4))


def trained(advantages_G, lengths, mask_G):
    responses, logprobs = (tuple((value,) * n for n in lengths) for value in (1, -1.0))
    return TrainGroup(GroupId(0, "q"), (1,), (), responses, logprobs, advantages_G, 0, loss_mask_G=mask_G)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reward/mean", 0.4),
        ("reward/std", ((0.6**2 + 0.4**2 + 2 * 0.1**2) / 4) ** 0.5),
        ("reward/zero_variance_share", 0.75),  # one of the two trained on, and two that were replaced
        ("reward/failed_groups", 1.0),
        ("data/skipped_questions", 4.0),
        ("rollout/replaced_groups", 2.0),
        ("rollout/unusable_logprobs", 2.0),
        ("rollout/replacement_limit_reached", 1.0),
        ("rollout/response_tokens_correct", 10.0),
        ("rollout/response_tokens_incorrect", 70 / 3),
        ("advantage/mean", 0.5),  # 1.5, 0.5 and -0.5: the masked one does not count
        ("advantage/std", (2 / 3) ** 0.5),
        ("advantage/min", -0.5),
        ("advantage/max", 1.5),
        ("reward/accuracy", 0.25),
        ("reward/format", 0.5),
        ("rollout/response_tokens_mean", 20.0),
        ("rollout/response_tokens_max", 30.0),
        ("rollout/truncated_share", 0.25),
        ("rollout/tokens", 80.0),
        ("rollout/tokens_per_s", 10.0),  # 80 tokens while the busiest worker had 8 s of work
        ("rollout/staleness_mean", 0.5),  # step 5 trains version 4: two responses of 4, two of 3
        ("rollout/idle_share_0", 0.2),
        ("rollout/idle_share_1", 0.8),
        ("learner/tokens_per_s", 200.0),
        ("learner/computed_tokens_per_s", 50.0),
        ("learner/idle_share", 0.75),
        ("samples_per_s", 0.4),
        ("time/step_s", 10.0),
        ("time/rollout_wait_s", 6.0),
        ("time/update_s", 3.0),
        ("time/sync_s", 1.0),
        ("train/loss", 0.25),
        ("train/update_s", 2.5),
    ],
)
def test_by_hand(metrics, name, value):
    assert metrics[name] == pytest.approx(value)


def test_staleness_is_the_mean_over_tokens(clock):
    group = scored((1.0, 0.0), [completion(10, [(3, 1), (4, 9)]), completion(10, [(4, 10)])])
    learner = {"update_s": 1.0, "row_tokens": 1.0, "computed_tokens": 1.0}
    figures = step_metrics([group], [], learner, clock, 5, NotTrained())
    assert figures["rollout/staleness_mean"] == pytest.approx(1 / 20)
    assert not any(name.startswith(("advantage/", "rollout/response_tokens_correct")) for name in figures)


def test_a_reward_s_mean_is_over_the_responses_that_it_applies_to(clock):
    completions = [completion(10, []), completion(30, [])]
    groups = [
        scored((1.0, 0.0), completions, accuracy=(1.0, None), judge=(None, None)),
        scored((1.0, 0.0), completions, accuracy=(0.5, None), judge=(None, None)),
    ]
    batch = [trained((0.5, -0.5), (10, 30), ())] * 2
    learner = {"update_s": 2.5, "row_tokens": 500.0, "computed_tokens": 125.0}
    metrics = step_metrics(groups, batch, learner, clock, step=5, not_trained=NotTrained())
    assert (metrics["reward/accuracy"], metrics["reward/accuracy/applied_share"]) == (0.75, 0.5)
    assert metrics["reward/judge/applied_share"] == 0.0
    assert "reward/judge" not in metrics
    assert metrics["rollout/response_tokens_correct"] == metrics["rollout/response_tokens_incorrect"] == 10.0
