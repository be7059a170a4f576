"""The desk between the ranks and the run: messages in order, a stop, and the error that no other try can mend."""

import asyncio

from ssr1_rl.distill.finetuning.messages import Note, Phase
from ssr1_rl.distill.finetuning.ray import Desk
from ssr1_rl.errors import RunError, UserError


async def test_messages_are_taken_once_in_order():
    desk = Desk()
    for text in "abc":
        await desk.tell(Note(text))
    assert await desk.take(0.0) == [Note("a"), Note("b"), Note("c")]
    assert await desk.take(0.0) == []


async def test_a_message_ends_the_wait_for_it():
    desk = Desk()
    taking = asyncio.create_task(desk.take(60.0))
    await asyncio.sleep(0)
    await desk.tell(Phase("update"))
    assert await taking == [Phase("update")]


async def test_a_rank_learns_of_a_stop_with_its_next_message():
    desk = Desk()
    assert not await desk.tell(Note("a"))
    await desk.ask_stop()
    assert await desk.tell(Note("b"))


async def test_starts_are_counted_until_an_error_that_another_try_cannot_mend():
    desk = Desk()
    assert [await desk.start(), await desk.start()] == [0, 1]
    first = UserError("too long")
    await desk.fail(first, "where")
    await desk.fail(RunError("the consequence"))
    assert await desk.start() is None
    assert await desk.has_failed()
    assert await desk.error() == (first, "where")
    assert await desk.tell(Note("a")), "ranks that still run end after their step"
