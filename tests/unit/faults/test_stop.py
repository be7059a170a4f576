"""A stop is asked for by a signal or by the clock; a signal cancels work, whose own errors are not lost."""

import asyncio

import pytest

from ssr1_rl.faults.stop import StopRequest


def test_without_a_limit_only_a_signal_asks():
    stop = StopRequest(0.0, clock=iter([0.0, 1e9, 1e9]).__next__)
    assert (stop.asked, stop.by_signal) == (False, False)
    stop.ask()
    assert (stop.asked, stop.by_signal) == (True, True)


def test_the_limit_counts_from_the_start():
    now = [100.0]
    stop = StopRequest(30.0, clock=lambda: now[0])
    now[0] = 129.9
    assert not stop.asked
    now[0] = 130.0
    assert (stop.asked, stop.by_signal) == (True, False)


async def test_work_that_ends_gives_its_result():
    assert await StopRequest().unless_signalled(asyncio.sleep(0, "done")) == "done"


async def test_a_signal_cancels_the_work():
    stop, ended = StopRequest(), []

    async def work():
        try:
            stop.ask()
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    assert await stop.unless_signalled(work()) is None
    assert ended == [True]


async def test_an_error_of_the_work_is_raised():
    async def work():
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await StopRequest().unless_signalled(work())
