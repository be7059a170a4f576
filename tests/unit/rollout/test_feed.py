"""Scored groups come in the order of admission: never too many in flight, none lost, none twice."""

import asyncio
import json
import random
from collections import Counter

import numpy as np
import pytest

from ssr1_rl.actors.roster import ActorLost
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.data.audio import AudioError
from ssr1_rl.data.skipped import SkipList, TooManyUnusable
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.faults.budget import FailedGroup, RewardFailure
from ssr1_rl.faults.first_error import watching
from ssr1_rl.rollout.engine import Sampling
from ssr1_rl.rollout.feed import GroupFeed
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.types import AudioRef, Completion, PreparedQuestion, Question, RolloutGroup, ScoredGroup, VersionSpan

SAMPLING = Sampling(2, 8)
GREEDILY = SAMPLING.greedy()


def questions(count):
    """Questions; those with an odd number have the kind "odd", the others none."""
    kinds = ("", "odd")
    return [Question(str(i), f"question {i}", "yes", kind=kinds[i % 2], source=f"file row {i}") for i in range(count)]


class World:
    """Doubles of preparer, pool and rewards. Groups come back out of order, some fail, some questions are unusable."""

    def __init__(self, failing=(), unusable=(), seed=0, same=()):
        self.failing, self.unusable, self.same = set(failing), set(unusable), set(same)
        self.random = random.Random(seed)
        self.version, self.in_flight, self.most_in_flight = 0, 0, 0
        self.generated = []

    async def prepare(self, question):
        if question.id in self.unusable:
            raise AudioError(f"no sound in {question.id}")
        return PreparedQuestion(question, (1, 2))

    async def generate(self, group_id, prepared, sampling):
        self.generated.append(group_id)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        version = self.version
        for _ in range(self.random.randrange(8)):
            await asyncio.sleep(0)
        self.in_flight -= 1
        completion = Completion((5,), (-1.0,), "yes", "stop", (VersionSpan(version, 0, 1),))
        return RolloutGroup(group_id, prepared.question, (completion,) * sampling.num_completions, version)

    @property
    def weights(self):
        return {"accuracy": 1.0}

    async def score(self, group):
        if group.id.question_id in self.failing:
            return FailedGroup(group.id, "accuracy", group.id.question_id, "", "it raised", 3)
        second = 1.0 + 1e-9 if group.id.question_id in self.same else 0.0
        rewards = (1.0, second)[: len(group.completions)]
        return ScoredGroup(group, rewards, {"accuracy": rewards})


@pytest.fixture
def make_feed(tmp_path):
    def make(world, num_questions=40, per_step=4, staleness=0, max_failed_share=0.5, max_skipped_share=0.5, **more):
        grpo = GrpoConfig(
            questions_per_step=per_step, max_staleness=staleness, max_failed_share=max_failed_share, **more
        )
        skips = SkipList(tmp_path / "skipped.jsonl", max_skipped_share, num_questions)
        return GroupFeed(QuestionStream(questions(num_questions), 0), world, world, world, SAMPLING, grpo, skips)

    return make


async def run_steps(feed, world, num_steps, per_step=4):
    steps = []
    for _ in range(num_steps):
        taken = await feed.take(per_step)
        await asyncio.sleep(0)  # training takes its time
        steps.append([(scored.group.id, scored.group.submitted_version, world.version) for scored, _ in taken])
        world.version += 1
        feed.trained()
    return steps


def stream_ids(count, num_questions=40):
    stream = QuestionStream(questions(num_questions), 0)
    return [next(stream)[0] for _ in range(count)]


@pytest.mark.parametrize("staleness", [0, 2])
async def test_order_of_admission_and_bound(make_feed, staleness):
    world = World()
    steps = await run_steps(make_feed(world, staleness=staleness), world, 25)
    assert [group_id for step in steps for group_id, *_ in step] == stream_ids(100)
    assert world.most_in_flight <= (staleness + 1) * 4
    ages = [trained - submitted for step in steps for _, submitted, trained in step]
    assert max(ages) == staleness
    assert all(age == staleness for age in ages[staleness * 4 :]), "generation runs ahead as far as it may"


@pytest.mark.parametrize("staleness", [0, 2])
async def test_nothing_is_admitted_before_the_engines_have_the_new_weights(make_feed, staleness):
    world = World()
    feed = make_feed(world, staleness=staleness)
    await feed.take(4)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(world.generated) == (staleness + 1) * 4


@pytest.mark.parametrize("staleness", [0, 2])
async def test_failed_and_unusable_groups_are_replaced_by_later_ones(make_feed, staleness, tmp_path):
    all_ids = stream_ids(40)
    failing = {g.question_id for g in all_ids[1:30:5]}
    unusable = {g.question_id for g in all_ids[3:30:10]}
    world = World(failing, unusable)
    feed = make_feed(world, staleness=staleness)
    steps = await run_steps(feed, world, 5)
    good = [g for g in all_ids if g.question_id not in failing | unusable]
    assert [group_id for step in steps for group_id, *_ in step] == good[:20]
    assert all(trained - submitted <= staleness for step in steps for _, submitted, trained in step)
    assert world.most_in_flight <= (staleness + 1) * 4
    assert feed.num_failed == sum(g.question_id in failing for g in world.generated)
    assert '"reason": "no sound in' in (tmp_path / "skipped.jsonl").read_text()
    feed.close()


@pytest.mark.parametrize("staleness", [0, 2])
async def test_dynamic_sampling_replaces_groups_without_variance(make_feed, staleness):
    all_ids = stream_ids(60)
    same = {g.question_id for g in all_ids[:40:2]}
    world = World(same=same)
    feed = make_feed(world, staleness=staleness, dynamic_sampling=True)
    steps, replaced = [], []
    for _ in range(5):
        steps += await run_steps(feed, world, 1)
        replaced.append(feed.num_replaced)
    good = [g for g in all_ids if g.question_id not in same]
    assert [group_id for step in steps for group_id, *_ in step] == good[:20]
    assert replaced == [4] * 5
    assert not feed.reached_limit
    assert all(trained - submitted <= staleness for step in steps for _, submitted, trained in step)
    assert world.most_in_flight <= (staleness + 1) * 4
    feed.close()


async def test_without_dynamic_sampling_every_group_is_taken(make_feed):
    world = World(same=map(str, range(40)))
    feed = make_feed(world)
    [step] = await run_steps(feed, world, 1)
    assert [group_id for group_id, *_ in step] == stream_ids(4)
    assert (feed.num_replaced, feed.reached_limit) == (0, False)


async def test_beyond_the_limit_a_step_takes_groups_as_they_come(make_feed):
    ids = stream_ids(20)
    world = World(same={g.question_id for g in ids[:5]})
    feed = make_feed(world, dynamic_sampling=True, dynamic_sampling_limit=0.75)
    [first] = await run_steps(feed, world, 1)
    assert [group_id for group_id, *_ in first] == ids[3:7], "3 of 5 were replaced, two fill up"
    assert (feed.num_replaced, feed.reached_limit) == (3, True)
    [second] = await run_steps(feed, world, 1)
    assert [group_id for group_id, *_ in second] == ids[7:11]
    assert (feed.num_replaced, feed.reached_limit) == (0, False)
    feed.close()


@pytest.mark.parametrize(("limit", "most"), [(0.1, 1), (0.25, 1), (0.3, 2), (1.75, 7)])
async def test_a_small_limit_is_rounded_up_and_not_off(make_feed, limit, most):
    world = World(same={g.question_id for g in stream_ids(40)})
    feed = make_feed(world, dynamic_sampling=True, dynamic_sampling_limit=limit)
    await run_steps(feed, world, 1)
    assert (feed.num_replaced, feed.reached_limit) == (most, True)
    feed.close()


@pytest.mark.parametrize("staleness", [0, 2])
async def test_dynamic_sampling_loses_nothing_across_a_resume(make_feed, staleness):
    same = {g.question_id for g in stream_ids(40)[1::3]}
    settings = {"staleness": staleness, "dynamic_sampling": True}
    world = World(same=same)
    feed = make_feed(world, **settings)
    trained = [group_id for step in await run_steps(feed, world, 3) for group_id, *_ in step]
    state = feed.state_dict()
    feed.close()
    considered = [(g.epoch, g.question_id) for g in world.generated]
    resumed_world = World(seed=1, same=same)
    resumed = make_feed(resumed_world, **settings)
    resumed.load_state_dict(state)
    trained += [group_id for step in await run_steps(resumed, resumed_world, 10) for group_id, *_ in step]
    resumed.close()
    good = [(g.epoch, g.question_id) for g in stream_ids(90) if g.question_id not in same]
    assert [(g.epoch, g.question_id) for g in trained] == good[:52], "each question in its turn, none twice"
    pending = [(epoch, question) for epoch, question, _ in state["pending"]]
    again = {(g.epoch, g.question_id) for g in resumed_world.generated} & set(considered)
    assert again == set(pending), "a group that was replaced before the checkpoint is not issued again"


async def test_an_error_of_a_group_in_flight_is_told_while_the_learners_update(make_feed):
    """With max_staleness above 0 groups are generated meanwhile; nobody waits for them until the next step."""
    world, updating = World(), asyncio.Event()

    async def generate(group_id, prepared, sampling):
        if len(world.generated) >= 4:
            await updating.wait()
            raise ActorLost("rollout worker 1 died")
        return await World.generate(world, group_id, prepared, sampling)

    world.generate = generate
    feed = make_feed(world, staleness=1)

    async def update():
        updating.set()
        await asyncio.Event().wait()

    await feed.take(4)
    async with watching(feed.failed()) as first_error:
        with pytest.raises(ActorLost, match="rollout worker 1 died"):
            await asyncio.wait_for(first_error.during(update()), 5)
    feed.close()


async def test_too_many_failures_stop_the_run(make_feed):
    world = World(failing=map(str, range(40)))
    feed = make_feed(world, max_failed_share=0.1)
    with pytest.raises(RewardFailure, match="it raised"):
        await feed.take(4)
    feed.close()


async def test_too_many_unusable_questions_stop_the_run(make_feed):
    feed = make_feed(World(unusable=map(str, range(20))), max_skipped_share=0.1)
    with pytest.raises(TooManyUnusable, match=r"of the first 4\d questions cannot be used.*no sound in"):
        await run_steps(feed, World(), 10)
    feed.close()


@pytest.mark.parametrize("staleness", [0, 1, 2])
async def test_nothing_is_lost_or_trained_twice_across_a_resume(make_feed, staleness):
    world = World()
    feed = make_feed(world, staleness=staleness)
    trained = [group_id for step in await run_steps(feed, world, 3) for group_id, *_ in step]
    state = feed.state_dict()
    feed.close()
    assert [tuple(p) for p in state["pending"]] == [
        (g.epoch, g.question_id, 1) for g in stream_ids(12 + staleness * 4)[12:]
    ]

    resumed_world = World(seed=1)
    resumed = make_feed(resumed_world, staleness=staleness)
    resumed.load_state_dict(state)
    trained += [group_id for step in await run_steps(resumed, resumed_world, 20) for group_id, *_ in step]
    assert [(g.epoch, g.question_id) for g in trained] == [(g.epoch, g.question_id) for g in stream_ids(92)]
    assert [g.attempt for g in trained] == [0] * 12 + [1] * (staleness * 4) + [0] * (80 - staleness * 4)
    assert set(Counter((g.epoch, g.question_id) for g in trained).values()) == {1}


@pytest.mark.parametrize("staleness", [0, 2])
async def test_failures_are_counted_once_across_a_resume(make_feed, staleness):
    failing = {g.question_id for g in stream_ids(40)[1::4]}
    world = World(failing)
    feed = make_feed(world, staleness=staleness)
    await run_steps(feed, world, 3)
    for _ in range(50):
        await asyncio.sleep(0)  # groups ahead of their turn fail too
    state = json.loads(json.dumps(feed.state_dict()))
    feed.close()
    pending = {question for _, question, _ in state["pending"]}
    before = {g.question_id for g in world.generated} - pending
    assert state["num_failed"] == len(before & failing)
    assert sum(state["newest_failed"]) == len(before & failing)

    resumed_world = World(failing, seed=1)
    resumed = make_feed(resumed_world, staleness=staleness)
    resumed.load_state_dict(state)
    await run_steps(resumed, resumed_world, 3)
    after = resumed.state_dict()
    resumed.close()
    done = {g.question_id for g in world.generated + resumed_world.generated}
    assert after["num_failed"] == len((done - {question for _, question, _ in after["pending"]}) & failing)


async def test_the_failure_budget_goes_on_after_a_resume(make_feed):
    ids = stream_ids(40)
    world = World({g.question_id for g in ids[:2]})
    feed = make_feed(world, max_failed_share=0.1)
    await run_steps(feed, world, 1)
    state = feed.state_dict()
    feed.close()
    broken = World({g.question_id for g in ids[6:7]})
    resumed = make_feed(broken, max_failed_share=0.1)
    resumed.load_state_dict(state)
    with pytest.raises(RewardFailure, match="3 of the newest 20 groups failed"):
        await run_steps(resumed, broken, 2)
    resumed.close()


async def test_groups_taken_but_not_trained_on_are_pending(make_feed):
    world = World()
    feed = make_feed(world)
    await feed.take(4)
    assert [q for _, q, _ in feed.state_dict()["pending"]] == [g.question_id for g in stream_ids(4)]


async def test_a_failure_is_raised_although_an_older_group_still_runs(make_feed):
    world = World()
    feed = make_feed(world)
    first = stream_ids(1)[0]

    async def generate(group_id, prepared, sampling):
        if group_id == first:
            await asyncio.sleep(10)
        raise ConnectionError("worker died")

    world.generate = generate
    try:
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(feed.take(4), 0.2)
    finally:
        feed.close()


class Builder:
    def prepare(self, question, waveforms, num_samples):
        token_ids = (len(question.text), *[7] * len(num_samples))
        return PreparedQuestion(question, token_ids, tuple(waveforms), tuple(n // 640 for n in num_samples))


@pytest.fixture
def decoded(monkeypatch):
    """Clips decoded, in order; each takes 1 MiB."""
    clips = []
    monkeypatch.setattr("ssr1_rl.rollout.prepare.ray.put", lambda waveform: f"ref-{len(clips)}")
    monkeypatch.setattr(
        "ssr1_rl.rollout.prepare.load_waveform",
        lambda ref, **limits: clips.append(ref.path) or np.zeros(2**18, np.float32),
    )
    return clips


def heard(id, clip, text="?"):
    return Question(id, text, "yes", audio=(AudioRef(clip),))


async def test_prepared_questions_are_kept_within_the_cache(decoded):
    preparer = Preparer(Builder(), DataConfig(audio_cache_mib=2))
    a, b, c = (heard(name, f"{name}.wav") for name in "abc")
    for question in (a, b, a, c, a, b):
        prepared = await preparer.prepare(question)
        assert prepared.question == question
    assert decoded == ["a.wav", "b.wav", "c.wav", "b.wav"], "b was used least recently when c came"


async def test_questions_of_two_splits_may_share_an_id(decoded):
    preparer = Preparer(Builder(), DataConfig())
    train, validation = heard("1", "train.wav"), heard("1", "validation.wav", "another question")
    await preparer.prepare(train)
    assert (await preparer.prepare(validation)).question == validation


async def test_a_clip_of_two_questions_is_decoded_once(decoded):
    preparer = Preparer(Builder(), DataConfig())
    first, second = [await preparer.prepare(heard(id, "same.wav")) for id in "ab"]
    assert first.waveforms == second.waveforms
    assert decoded == ["same.wav"]
