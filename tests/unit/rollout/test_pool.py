"""Groups go to the worker with the least outstanding tokens; waits are described in words."""

import asyncio
from dataclasses import replace

import pytest

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.waits import WaitedTooLong, Waits
from ssr1_rl.rollout.engine import Sampling, group_seed
from ssr1_rl.rollout.pool import RolloutPool
from ssr1_rl.types import Clip, Completion, GroupId, PreparedQuestion, Question

SAMPLING = Sampling(num_completions=4, max_response_tokens=10)
COMPLETION = Completion((1,), (-0.5,), "x", "stop")


class Worker:
    """A double of the worker's actor handle: calls wait until `finish`."""

    def __init__(self):
        self.calls = []
        self.generate = self

    def remote(self, request_id, token_ids, sampling, *waveforms):
        self.calls.append((request_id, token_ids, sampling, waveforms))
        self.answer = asyncio.get_running_loop().create_future()
        return self.answer

    def finish(self, result=((COMPLETION,) * 4, 3)):
        self.answer.set_result(result)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ssr1_rl.rollout.pool.time.monotonic", lambda: now[0])
    return now


def prepared(id="q", num_tokens=5):
    return PreparedQuestion(Question(id, "?", "yes"), tuple(range(num_tokens)), (Clip("key", "clip"),))


def make_pool(workers, timeout_s):
    return RolloutPool([Actor(worker) for worker in workers], timeout_s, Waits())


async def submit(pool, id="q", num_tokens=5):
    task = asyncio.create_task(pool.generate(GroupId(0, id), prepared(id, num_tokens), SAMPLING))
    await asyncio.sleep(0)
    return task


async def settle(task):
    result = await task
    await asyncio.sleep(0)
    return result


async def test_a_group_comes_back_with_its_question_and_version():
    worker = Worker()
    pool = make_pool([worker], 60)
    task = await submit(pool)
    (request_id, token_ids, sampling, waveforms) = worker.calls[0]
    assert (token_ids, waveforms) == (tuple(range(5)), ("clip",))
    assert sampling == replace(SAMPLING, seed=group_seed(SAMPLING.seed, GroupId(0, "q")))
    worker.finish()
    group = await settle(task)
    assert (group.id, group.question.id, group.submitted_version) == (GroupId(0, "q"), "q", 3)
    assert group.completions == (COMPLETION,) * 4
    assert pool._waits.describe() == []
    await submit(pool)
    assert worker.calls[1][0] != request_id, "request ids are unique, also for a question asked again"


async def test_the_least_outstanding_tokens_win():
    first, second = Worker(), Worker()
    pool = make_pool([first, second], 60)
    tasks = [await submit(pool, "long", 500), await submit(pool, "a", 5), await submit(pool, "b", 5)]
    assert [len(w.calls) for w in (first, second)] == [1, 2], "540 tokens outweigh 45 + 45"
    first.finish()
    await settle(tasks[0])
    await submit(pool, "c", 5)
    assert len(first.calls) == 2


async def test_equally_loaded_workers_are_taken_in_order():
    workers = [Worker() for _ in range(3)]
    pool = make_pool(workers, 60)
    for index in range(6):
        await submit(pool, str(index))
    assert [[call[0].split("-", 1)[1] for call in w.calls] for w in workers] == [["0", "3"], ["1", "4"], ["2", "5"]]


async def test_busy_time_is_counted_once_however_many_groups(clock):
    first, second = Worker(), Worker()
    pool = make_pool([first, second], 60)
    long = await submit(pool, "long", 500)
    clock[0] += 2
    other = await submit(pool, "a")
    clock[0] += 3
    assert pool.busy_s() == [5.0, 3.0]
    second.finish()
    await settle(other)
    clock[0] += 4
    assert pool.busy_s() == [9.0, 3.0], "idle time is not counted"
    assert pool._waits.describe() == ["rollout worker 0: generating epoch 0 question long attempt 0 for 9 s"]
    first.finish()
    await settle(long)
    clock[0] += 10
    assert pool.busy_s() == [9.0, 3.0]
    assert pool._waits.describe() == []


async def test_a_timeout_names_worker_question_and_settings():
    pool = make_pool([Worker()], 0.01)
    with pytest.raises(
        WaitedTooLong,
        match=r"worker 0: generating epoch 0 question q attempt 0 took longer than "
        r"rollout\.generate_timeout_s=0\.01 s; raise it",
    ):
        await pool.generate(GroupId(0, "q"), prepared(), SAMPLING)
    assert pool._waits.describe() == []


async def test_a_worker_s_error_is_passed_on_and_the_group_forgotten():
    worker = Worker()
    pool = make_pool([worker], 60)
    task = await submit(pool)
    worker.answer.set_exception(ConnectionError("died"))
    with pytest.raises(ConnectionError, match="died"):
        await task
    assert pool._waits.describe() == []


def test_seeds_follow_from_run_epoch_and_question_alone():
    seeds = [group_seed(run, GroupId(epoch, question)) for run in (0, 1) for epoch in (0, 1) for question in ("a", "b")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**62 for seed in seeds), "vLLM adds the index of a response and keeps seeds as int64"
    assert group_seed(0, GroupId(0, "a", attempt=3)) == group_seed(0, GroupId(0, "a")), "a resume samples the same"
    assert group_seed(0, GroupId(0, "\ud800")) != group_seed(0, GroupId(0, "\ud801")), "any text is an id"
