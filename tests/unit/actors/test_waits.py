"""Every wait has a name, a start and a limit."""

import asyncio

import pytest

from ssr1_rl.actors.waits import WaitedTooLong, Waits


async def never():
    await asyncio.Event().wait()


async def fails(error):
    raise error


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ssr1_rl.actors.waits.time.monotonic", lambda: now[0])
    return now


def test_the_longest_wait_comes_first_and_each_actor_once(clock):
    waits = Waits()
    with waits.of("engine 1", "generating a"):
        clock[0] += 5
        with waits.of("engine 0", "generating b"), waits.of("engine 1", "generating c"):
            clock[0] += 2
            assert waits.describe() == ["engine 1: generating a for 7 s, and 1 more", "engine 0: generating b for 2 s"]
    assert waits.describe() == []


async def test_a_wait_that_failed_is_over():
    waits = Waits()
    with pytest.raises(ConnectionError, match="died"):
        await waits.result("learner", "loading", fails(ConnectionError("died")), 60, "learner.start_timeout_s")
    assert waits.describe() == []


async def test_a_limit_names_actor_work_setting_and_fix():
    waits = Waits()
    with pytest.raises(WaitedTooLong, match=r"^learner: loading took longer than learner\.t=0\.01 s; raise it$"):
        await waits.result("learner", "loading", never(), 0.01, "learner.t", "raise it")
    assert waits.describe() == []


async def test_a_timeout_of_the_call_itself_is_not_taken_for_the_limit():
    with pytest.raises(TimeoutError, match=r"^the judge did not answer$") as caught:
        await Waits().result("reward", "scoring", fails(TimeoutError("the judge did not answer")), 60, "timeout_s")
    assert not isinstance(caught.value, WaitedTooLong)
