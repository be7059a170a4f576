"""The reward stage on a real Ray: successes, retries, failures, and what the pool returns."""

import asyncio
import os

import pytest

from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.faults.budget import FailedGroup, FailureBudget, RewardFailure
from ssr1_rl.rewards.pool import RewardPool
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup, ScoredGroup

pytestmark = pytest.mark.usefixtures("ray_cluster")

REWARDS_FILE = '''
import asyncio
import itertools
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

LOADED_ON_MAIN = float(threading.current_thread() is threading.main_thread())

def brevity(question, completions, per_char=1.0):
    return [-per_char * len(c.text) for c in completions]

class Meets:
    """Answers once that many groups are being scored at the same time."""
    def __init__(self, num_groups):
        self.num_groups, self.num_waiting = num_groups, 0
    async def __call__(self, question, completions):
        self.num_waiting += 1
        while self.num_waiting < self.num_groups:
            await asyncio.sleep(0.01)
        return [1.0 for _ in completions]

async def meets_another_actor(completions, folder):
    """Answers when two actors have run; fails if this one gets another group in the meantime."""
    busy = Path(folder) / f"busy-{os.getpid()}"
    busy.touch(exist_ok=False)
    (Path(folder) / f"actor-{os.getpid()}").touch()
    while len(list(Path(folder).glob("actor-*"))) < 2:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    busy.unlink()
    return [1.0 for _ in completions]

def returns_awaitable(question, completions, folder):
    return meets_another_actor(completions, folder)

def tries(folder):
    """Counts calls across processes."""
    path = Path(folder) / "tries"
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    return len(path.read_text())

def raises_twice(question, completions, folder):
    if tries(folder) <= 2:
        raise ConnectionError("judge is busy")
    return [1.0 for _ in completions]

def dies_once(question, completions, folder):
    if tries(folder) == 1:
        os._exit(1)
    return [os.getpid() for _ in completions]

def misbehaves(question, completions):
    """Does what the question says."""
    good = [1.0 for _ in completions]
    if question.text == "raise":
        return [1 / 0]
    if question.text == "stop":
        return next(iter(()))
    if question.text == "exit":
        raise SystemExit(3)
    if question.text == "die":
        os._exit(1)
    if question.text == "hang":
        time.sleep(1000)
    if question.text == "hold the GIL":
        re.match("(a+)+$", "a" * 40 + "b")
    if question.text == "pid":
        return [os.getpid() for _ in completions]
    return {"nan": [float("nan"), *good[1:]], "short": good[1:], "text": ["1.0", *good[1:]], "none": None}.get(
        question.text, good
    )

def on_main_thread(question, completions):
    """Uses a signal, which works on the main thread only; leaves an alarm behind."""
    def late(*_):
        raise TimeoutError("the time limit inside the reward")
    signal.signal(signal.SIGALRM, late)
    if question.text == "limit":
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            time.sleep(20)
        except TimeoutError:
            return [0.25 for _ in completions]
    if question.text == "leave an alarm":
        signal.setitimer(signal.ITIMER_REAL, 0.2)
    if question.text == "wait":
        time.sleep(0.5)
    return [LOADED_ON_MAIN, question.metadata.pop("seen", 1.0), float(asyncio.run(one()))]

async def one():
    return 1

def for_trl(completions, ground_truth, level, **kwargs):
    return [None if text == "B" else float(truth in text) + each
            for text, truth, each in zip(completions, ground_truth, level)]

async def for_verl(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return {"score": float(ground_truth in solution_str) + extra_info["level"]}

class Opaque:
    """Only the actor sees that it is async."""
async def _call(self, question, completions):
    return [2.0 for _ in completions]
setattr(Opaque, "__call__", _call)

async def misbehaves_async(question, completions):
    if question.text == "hang":
        await asyncio.sleep(1000)
    if question.text == "block":
        time.sleep(1000)
    return [os.getpid() for _ in completions]

class Counts:
    """State stays in the actor."""
    def __init__(self, start):
        self.calls = itertools.count(start)
    def __call__(self, question, completions):
        return [next(self.calls)] * len(completions)

class Unbuildable:
    def __init__(self):
        raise OSError("no model here")
'''


@pytest.fixture
def user(tmp_path, monkeypatch):
    """Makes settings of a function in the user's file."""
    (tmp_path / "my_rewards.py").write_text(REWARDS_FILE)
    monkeypatch.chdir(tmp_path)

    def settings(function: str, **others) -> RewardConfig:
        defaults = {"num_cpus": 0.01, "timeout_s": 20.0, "max_retries": 0}
        return RewardConfig(path=f"my_rewards.py:{function}", **(defaults | others))

    return settings


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def make_pool(waits):
    pools = []

    def make(*configs: RewardConfig) -> RewardPool:
        pool = RewardPool(configs, waits)
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        pool.shutdown()


def group(text: str = "", question_id: str = "q1", **metadata) -> RolloutGroup:
    responses = ("<think>x</think><answer>B</answer>", "<answer>dog</answer>", "B")
    source = "train.json row 7"
    question = Question(question_id, text, "dog", choices=("cat", "dog"), source=source, metadata=metadata)
    completions = tuple(Completion((1,), (-0.5,), response, "stop") for response in responses)
    return RolloutGroup(GroupId(0, question_id), question, completions)


def rewards_of(result: ScoredGroup | FailedGroup) -> tuple[float, ...]:
    assert isinstance(result, ScoredGroup), result
    return result.rewards_G


def failure_of(result: ScoredGroup | FailedGroup) -> FailedGroup:
    assert isinstance(result, FailedGroup), result
    return result


async def test_weights_breakdown_and_state(user, make_pool):
    pool = make_pool(
        RewardConfig(name="accuracy", num_cpus=0.01),
        RewardConfig(name="format", weight=0.5, num_cpus=0.01, options={"partial_credit": True}),
        user("Counts", name="calls", weight=-0.25, options={"start": 4}),
    )
    scored = await pool.score(group())
    assert isinstance(scored, ScoredGroup)
    assert scored.group == group()
    assert scored.breakdown == {"accuracy": (1.0, 1.0, 0.0), "format": (1.0, 0.5, 0.0), "calls": (4.0, 4.0, 4.0)}
    assert scored.rewards_G == (0.5, 0.25, -1.0)
    second = await pool.score(group())
    assert isinstance(second, ScoredGroup)
    assert second.breakdown["calls"] == (5.0, 5.0, 5.0)
    assert pool.names == ("accuracy", "format", "calls")


async def test_file_need_not_exist_where_the_actor_runs(user, make_pool, tmp_path):
    pool = make_pool(user("brevity", options={"per_char": 0.5}))
    (tmp_path / "my_rewards.py").unlink()
    assert rewards_of(await pool.score(group())) == (-17.0, -10.0, -0.5)


async def test_async_function_scores_many_groups_at_once(user, make_pool):
    pool = make_pool(user("Meets", options={"num_groups": 16}))
    results = await asyncio.gather(*(pool.score(group(question_id=f"q{i}")) for i in range(16)))
    assert [rewards_of(result) for result in results] == [(1.0, 1.0, 1.0)] * 16


async def test_sync_function_runs_one_group_per_actor_and_may_return_an_awaitable(user, make_pool, tmp_path):
    pool = make_pool(user("returns_awaitable", num_actors=2, options={"folder": str(tmp_path)}))
    results = await asyncio.gather(*(pool.score(group(question_id=f"q{i}")) for i in range(4)))
    assert [rewards_of(result) for result in results] == [(1.0, 1.0, 1.0)] * 4


async def test_what_raises_and_then_succeeds_is_retried(user, make_pool, tmp_path):
    pool = make_pool(user("raises_twice", max_retries=2, options={"folder": str(tmp_path)}))
    assert rewards_of(await pool.score(group())) == (1.0, 1.0, 1.0)
    assert (tmp_path / "tries").read_text() == "xxx"


async def test_dead_actor_is_replaced_and_the_group_tried_again(user, make_pool, tmp_path):
    pool = make_pool(user("dies_once", max_retries=1, options={"folder": str(tmp_path)}))
    pids = rewards_of(await pool.score(group()))
    assert (tmp_path / "tries").read_text() == "xx"
    assert pids[0] != os.getpid()


async def test_what_always_fails_sets_the_group_aside_and_scoring_goes_on(user, make_pool):
    pool = make_pool(RewardConfig(name="accuracy", num_cpus=0.01), user("misbehaves", max_retries=1))
    (pid, *_) = rewards_of(await pool.score(group("pid")))
    failed = failure_of(await pool.score(group("raise", "q7")))
    assert (failed.group_id, failed.question_id) == (GroupId(0, "q7"), "q7")
    assert (failed.reward_name, failed.source, failed.attempts) == ("misbehaves", "train.json row 7", 2)
    assert failed.error.startswith("ZeroDivisionError: division by zero (my_rewards.py, line ")
    assert failed.error.endswith("in misbehaves)")
    for text, error in {
        "nan": "reward 1 of 3 is nan",
        "short": "2 rewards for 3 completions",
        "text": "reward 1 of 3 is '1.0', which is not a number",
        "none": "has to return a list of 3 floats, got None",
        "stop": "StopIteration",
        "exit": "SystemExit: 3",
    }.items():
        assert error in failure_of(await pool.score(group(text))).error
    (pid_after, *_) = rewards_of(await pool.score(group("pid")))
    assert pid_after == pid, "none of these costs the actor"


@pytest.mark.parametrize("text", ["hang", "hold the GIL"])
async def test_hung_actor_is_replaced_and_further_groups_are_scored(user, make_pool, waits, text):
    pool = make_pool(user("misbehaves", timeout_s=0.5, max_retries=1))
    (pid, *_) = rewards_of(await pool.score(group("pid")))
    scoring = asyncio.create_task(pool.score(group(text, "q7")))
    await asyncio.sleep(0.2)
    (sentence,) = waits.describe()
    assert sentence == "reward function 'misbehaves': question 'q7' (try 1 of 2): scoring, limit 0.5 s, for 0 s"
    next_one = asyncio.create_task(pool.score(group("pid")))
    failed = failure_of(await scoring)
    assert (failed.error, failed.attempts) == ("it gave no rewards within timeout_s (0.5 s)", 2)
    (pid_after, *_) = rewards_of(await next_one)
    assert pid_after != pid
    assert waits.describe() == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


async def test_hung_async_call_costs_only_its_own_group(user, make_pool):
    pool = make_pool(user("misbehaves_async", timeout_s=0.5))
    (pid, *_) = rewards_of(await pool.score(group()))
    hung, fine = await asyncio.gather(pool.score(group("hang")), pool.score(group()))
    assert failure_of(hung).error == "it gave no rewards within timeout_s (0.5 s)"
    assert rewards_of(fine)[0] == pid
    blocked = failure_of(await pool.score(group("block")))
    assert blocked.error.startswith(
        "it gave no rewards within timeout_s (0.5 s), because it blocks its event loop, in which all its groups are "
        "scored: my_rewards.py, line "
    )
    assert ", in misbehaves_async: `time.sleep(1000)`. Await there instead" in blocked.error
    assert rewards_of(await pool.score(group()))[0] != pid, "a blocked event loop can only be killed"


async def test_a_plain_function_is_loaded_and_runs_on_its_actor_s_main_thread(user, make_pool):
    pool = make_pool(user("on_main_thread"))
    assert rewards_of(await pool.score(group("limit"))) == (0.25, 0.25, 0.25)
    assert rewards_of(await pool.score(group("leave an alarm"))) == (1.0, 1.0, 1.0)
    assert rewards_of(await pool.score(group("wait"))) == (1.0, 1.0, 1.0), "an alarm does not outlive its call"


async def test_what_a_function_does_to_the_metadata_is_not_seen_by_the_next_call(user, make_pool):
    pool = make_pool(user("on_main_thread"))
    scored = await pool.score(group(seen=0.5))
    assert rewards_of(scored) == (1.0, 0.5, 1.0) == rewards_of(await pool.score(group(seen=0.5)))
    assert isinstance(scored, ScoredGroup) and scored.group.question.metadata == {"seen": 0.5}


async def test_functions_written_for_trl_and_verl_are_served(user, make_pool):
    pool = make_pool(user("for_trl"), user("for_verl"))
    scored = await pool.score(group(level=2))
    assert isinstance(scored, ScoredGroup)
    assert scored.breakdown == {"for_trl": (2.0, 3.0, None), "for_verl": (2.0, 3.0, 2.0)}
    assert scored.rewards_G == (4.0, 6.0, 2.0)
    lacking = failure_of(await pool.score(group()))
    assert lacking.error.startswith("it takes 'level', and the question has no column of this name: it has answer, ")


async def test_an_async_function_that_only_its_actor_recognises_scores_many_groups_at_once(user, make_pool):
    pool = make_pool(user("Opaque", runtime_env={"env_vars": {"ONLY_THERE": "1"}}, num_actors=2))
    results = await asyncio.gather(*(pool.score(group(question_id=f"q{i}")) for i in range(4)))
    assert [rewards_of(result) for result in results] == [(2.0, 2.0, 2.0)] * 4
    assert rewards_of(await pool.score(group())) == (2.0, 2.0, 2.0)


async def test_actor_that_always_dies_fails_the_group(user, make_pool):
    pool = make_pool(user("misbehaves"))
    failed = failure_of(await pool.score(group("die")))
    assert failed.error.startswith("its actor was lost: it ")
    assert len(failed.error) < 300, "a sentence, and not Ray's page"
    assert rewards_of(await pool.score(group())) == (1.0, 1.0, 1.0)


async def test_cancelled_scoring_frees_its_actor(user, make_pool):
    pool = make_pool(user("misbehaves"))
    (pid, *_) = rewards_of(await pool.score(group("pid")))
    scoring = asyncio.create_task(pool.score(group("hang")))
    await asyncio.sleep(0.2)
    scoring.cancel()
    assert rewards_of(await pool.score(group("pid")))[0] != pid, "the cancelled call still runs in the old actor"


async def test_too_many_failures_stop_the_run(user, make_pool):
    pool = make_pool(user("misbehaves"))
    budget = FailureBudget(max_failed_share=0.1, questions_per_step=4)
    for _ in range(2):
        budget.record(await pool.score(group("raise")))
    budget.record(await pool.score(group()))
    with pytest.raises(RewardFailure, match=r"'misbehaves' failed on question 'q7' \(train.json row 7\).*ZeroDivision"):
        budget.record(await pool.score(group("raise", "q7")))
    assert budget.failed_share == 3 / 20


async def test_function_that_cannot_be_loaded_in_its_actor_stops_the_run_at_once(user, make_pool):
    pool = make_pool(user("Unbuildable", max_retries=5))
    message = r"'Unbuildable' could not be loaded in its actor: rewards\[0\].*OSError: no model here"
    with pytest.raises(RewardFailure, match=message):
        await pool.ready()
    with pytest.raises(RewardFailure, match=message):
        await pool.score(group())


def test_same_name_twice_is_refused(user, make_pool):
    with pytest.raises(ValueError, match=r"rewards\[1\]\.name 'brevity' is taken .* set rewards\[1\]\.name"):
        make_pool(user("brevity"), user("brevity"))


def test_mistakes_are_found_before_an_actor_starts(user, make_pool):
    with pytest.raises(ValueError, match=r"rewards\[1\]\.path .* no 'brevty'; did you mean 'brevity'"):
        make_pool(RewardConfig(name="accuracy"), user("brevty"))
    with pytest.raises(ValueError, match="rewards is empty"):
        make_pool()
