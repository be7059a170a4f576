"""What blocks runs outside of the event loop, and does not keep the process alive."""

import asyncio
import subprocess
import sys
import threading

import pytest

from ssr1_rl.actors.in_thread import in_thread


async def test_the_loop_runs_meanwhile():
    go = threading.Event()
    waiting = asyncio.create_task(in_thread(go.wait, 60))
    await asyncio.sleep(0)
    go.set()  # reached only because the wait does not block the loop
    assert await waiting is True


async def test_its_error_is_raised_as_it_is():
    with pytest.raises(KeyError, match="x"):
        await in_thread({}.__getitem__, "x")


@pytest.mark.filterwarnings("error")
async def test_the_end_of_a_thread_that_nobody_awaits_any_more_is_no_error():
    go, ended = threading.Event(), threading.Event()

    def block():
        go.wait(60)
        ended.set()

    waiting = asyncio.create_task(in_thread(block))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go.set()
    ended.wait(60)
    await asyncio.sleep(0)


@pytest.mark.filterwarnings("error")
def test_a_loop_that_is_closed_at_the_last_moment_is_no_error(monkeypatch):
    """It may be closed between a look at it and the call."""
    go, ended = threading.Event(), threading.Event()
    failed = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    async def leave():
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "is_closed", lambda: False)
        waiting = asyncio.create_task(in_thread(work))
        await asyncio.sleep(0)
        waiting.cancel()

    def work():
        ended.thread = threading.current_thread()
        ended.set()
        go.wait(60)

    asyncio.run(leave())
    assert ended.wait(60)
    go.set()
    ended.thread.join(60)
    assert failed == []


def test_a_process_that_was_stopped_ends_while_the_thread_still_works():
    code = """
import asyncio, threading
from ssr1_rl.actors.in_thread import in_thread
async def main():
    waiting = asyncio.create_task(in_thread(threading.Event().wait))
    await asyncio.sleep(0)
    waiting.cancel()
    await waiting
try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr
