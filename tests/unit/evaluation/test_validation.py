"""Validation: a mean over the questions that have a score; those without are counted, and too many stop the run."""

import json

import pytest
from ray.exceptions import RayTaskError

from ssr1_rl.actors.waits import WaitedTooLong
from ssr1_rl.data.skipped import SkipList
from ssr1_rl.evaluation.validation import TooManyUnscored, evaluate
from ssr1_rl.types import ScoredGroup
from tests.unit.rollout.test_feed import GREEDILY, World, questions


@pytest.fixture
def skips(tmp_path):
    return SkipList(tmp_path / "skipped.jsonl", 0.0, 1)


async def run(world, skips, num=5, **more):
    return await evaluate(questions(num), world, world, world, GREEDILY, skips, **more)


async def test_evaluation_is_the_mean_over_a_split(skips):
    world = World()
    result = await run(world, skips, max_in_flight=2)
    figures = {"score": 1.0, "score/odd": 1.0, "num_questions": 5, "response_tokens_mean": 1, "truncated_share": 0}
    assert {name: result.metrics()[name] for name in figures} == figures
    assert result.measure == "accuracy"
    assert result.score_by_kind.keys() == {"odd"}, "questions without a kind have no figure of their own"
    assert world.most_in_flight <= 2


async def test_questions_without_a_score_are_counted_and_left_out(skips, tmp_path):
    world = World(failing=["2"], unusable=["3"])
    generate = world.generate

    async def generate_or_fail(group_id, prepared, sampling):
        if group_id.question_id == "4":
            raise RayTaskError("generate", "the prompt is too long", ValueError("the prompt is too long"))
        if group_id.question_id == "5":
            raise WaitedTooLong("rollout worker 0: generating took longer than …")
        return await generate(group_id, prepared, sampling)

    world.generate = generate_or_fail
    done = []
    result = await run(world, skips, num=100, on_progress=done.append)
    counts = {"num_questions": 96, "num_unusable": 1, "num_failed": 3}
    assert {name: result.metrics()[name] for name in counts} == counts
    assert done == list(range(1, 101)), "progress reaches the end"
    (row,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert (row["question_id"], row["reason"]) == ("3", "no sound in 3")
    assert skips.num_skipped == 0, "the share of training questions is not that of a split"


@pytest.mark.parametrize(("share", "num_failing", "stops"), [(0.05, 5, False), (0.05, 6, True), (0.0, 1, True)])
async def test_too_many_without_a_score_stop_the_run(skips, share, num_failing, stops):
    world = World(failing=map(str, range(num_failing)))
    if not stops:
        assert (await run(world, skips, num=100, max_unscored_share=share)).num_failed == num_failing
        return
    message = (
        rf"{num_failing} of the 100 questions .* {num_failing} failed\), more than grpo\.max_unscored_share={share:g}"
    )
    with pytest.raises(TooManyUnscored, match=message + r".*reward accuracy, 3 tries: it raised"):
        await run(world, skips, num=100, max_unscored_share=share)


async def test_one_failure_never_stops_a_small_split(skips):
    assert (await run(World(failing=["2"]), skips)).num_questions == 4


async def test_the_death_of_a_worker_is_not_a_question_s_fault(skips):
    world = World()

    async def generate(*_):
        raise ConnectionError("worker died")

    world.generate = generate
    with pytest.raises(ConnectionError, match="worker died"):
        await run(world, skips, max_unscored_share=1.0)


async def test_a_split_without_any_score_says_so(skips):
    with pytest.raises(TooManyUnscored, match=r"no question .* 5 cannot be used"):
        await run(World(unusable=map(str, range(5))), skips, max_unscored_share=1.0)


async def test_questions_that_accuracy_does_not_apply_to_are_not_in_the_count_of_its_mean(skips):
    world = World()
    score = world.score

    async def score_the_first_two(group):
        scored = await score(group)
        applies = group.id.question_id in ("0", "1")
        return ScoredGroup(group, scored.rewards_G, {"accuracy": scored.rewards_G if applies else (None,)})

    world.score = score_the_first_two
    figures = (await run(world, skips)).metrics()
    assert (figures["num_questions"], figures["num_not_applying"]) == (2.0, 3.0)
    assert figures["accuracy"] == figures["score"] == 1.0


async def test_without_an_accuracy_reward_every_question_that_is_scored_counts(skips):
    world = World()
    score = world.score

    async def score_by_another(group):
        scored = await score(group)
        return ScoredGroup(group, scored.rewards_G, {"format": (None,)})

    world.score = score_by_another
    figures = (await run(world, skips)).metrics()
    assert (figures["num_questions"], figures["num_not_applying"]) == (5.0, 0.0)
