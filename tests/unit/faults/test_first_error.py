"""An engine or a group that fails ends what the loop waits for, at once."""

import asyncio

import pytest

from ssr1_rl.faults.first_error import watching


async def never():
    await asyncio.Event().wait()


async def fails(error, when):
    await when.wait()
    raise error


async def test_an_error_beside_the_work_cancels_it_and_is_raised():
    begun, cancelled = asyncio.Event(), []

    async def update():
        try:
            begun.set()
            await never()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async with watching(never(), fails(RuntimeError("engine 1 died"), begun)) as first_error:
        with pytest.raises(RuntimeError, match="engine 1 died"):
            await asyncio.wait_for(first_error.during(update()), 5)
    assert cancelled == [True]


async def test_the_watched_error_is_told_and_not_the_work_s_that_follows_from_it():
    begun = asyncio.Event()

    async def sync():
        begun.set()
        raise ConnectionError("broadcast")

    begun.set()
    async with watching(fails(RuntimeError("engine 1 died"), begun)) as first_error:
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="engine 1 died"):
            await first_error.during(sync())


async def test_work_between_two_watched_parts_is_finished_and_the_next_part_fails_at_once():
    now = asyncio.Event()
    async with watching(fails(RuntimeError("engine 1 died"), now)) as first_error:
        now.set()
        await asyncio.sleep(0)  # a checkpoint is written here
        begun = []

        async def step():
            begun.append(1)
            await never()

        with pytest.raises(RuntimeError, match="engine 1 died"):
            await first_error.during(step())
        assert begun == []


async def test_work_to_be_finished_is_finished_and_the_error_is_told_meanwhile():
    now, told = asyncio.Event(), []

    async def update():
        now.set()
        while not told:
            await asyncio.sleep(0)
        return 3

    async with watching(fails(RuntimeError("engine 1 died"), now)) as first_error:
        assert await asyncio.wait_for(first_error.finishing(update(), told.append), 5) == 3
        assert [str(error) for error in told] == ["engine 1 died"]
        with pytest.raises(RuntimeError, match="engine 1 died"):
            await first_error.during(never())


async def test_the_result_and_the_error_of_the_work_are_its_own():
    async def work(value):
        return value

    now = asyncio.Event()
    now.set()
    async with watching(never()) as first_error:
        assert await first_error.during(work(3)) == 3
        with pytest.raises(KeyError):
            await first_error.during(fails(KeyError("x"), now))


async def test_a_stop_from_outside_ends_the_work_too():
    ended = []

    async def work():
        try:
            await never()
        finally:
            ended.append(True)

    async def run():
        async with watching(never()) as first_error:
            await first_error.during(work())

    task = asyncio.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]
