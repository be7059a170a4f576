"""When the watchdog warns, by a clock that the test sets."""

import asyncio
import heapq

import pytest

from ssr1_rl.faults.watchdog import Watchdog


class FakeTime:
    """A clock that only `advance` moves."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._sleepers: list[tuple[float, int, asyncio.Future]] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now_s + seconds, id(done), done))
        await done

    async def advance(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= until_s:
            self.now_s, _, done = heapq.heappop(self._sleepers)
            if not done.done():
                done.set_result(None)
            await self._settle()
        self.now_s = until_s

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def time():
    return FakeTime()


@pytest.fixture
def warnings():
    return []


@pytest.fixture
def watchdog(time, warnings):
    def warn(text):
        warnings.append((time.now_s - 100, text))

    return Watchdog(60, lambda: ["worker 0: 3 groups", "learner: updating"], warn, clock=time.clock, sleep=time.sleep)


async def test_intervals_double(watchdog, time, warnings):
    async with watchdog:
        await time.advance(1000)
    assert [at for at, _ in warnings] == [60, 180, 420, 900]
    head, *sentences = warnings[1][1].splitlines()
    assert head.startswith("no progress for 180 s (since ")
    assert sentences == ["  worker 0: 3 groups", "  learner: updating"]


async def test_beats_keep_it_silent(watchdog, time, warnings):
    async with watchdog:
        for _ in range(20):
            await time.advance(59)
            watchdog.beat()
    assert warnings == []


async def test_a_stall_after_a_long_one_is_noticed_as_soon_as_the_first(watchdog, time, warnings):
    async with watchdog:
        await time.advance(500)  # the next warning would come at 900
        watchdog.beat()
        await time.advance(250)
    assert [at for at, _ in warnings] == [60, 180, 420, 560, 680]
    assert warnings[3][1].startswith("no progress for 60 s")


async def test_it_says_nothing_once_stopped_and_can_start_again(watchdog, time, warnings):
    async with watchdog:
        await time.advance(30)
    await time.advance(500)
    assert warnings == []
    async with watchdog:
        await time.advance(59)
        assert warnings == []
        await time.advance(1)
    assert len(warnings) == 1


async def test_a_warning_names_that_nothing_is_known(time, warnings):
    async with Watchdog(60, list, warnings.append, clock=time.clock, sleep=time.sleep):
        await time.advance(60)
    assert warnings[0].splitlines()[1:] == ["  nothing that the run knows of"]
