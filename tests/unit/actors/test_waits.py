"""Every wait has a name, a start and a limit."""

import asyncio

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError, RayActorError, RayTaskError

from ssr1_rl.actors.roster import ActorLost, Member, Process, how_it_was_lost
from ssr1_rl.actors.waits import WaitedTooLong, Waits
from ssr1_rl.errors import PeerLost, RunError, Unanswered, original


async def never():
    await asyncio.Event().wait()


async def at_once():
    return None


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


def lost(actor_id="ab12"):
    """What Ray raises for an actor that was killed with -9."""
    text = f"The actor died unexpectedly.\n\tclass_name: X\n\tactor_id: {actor_id}\nWorker exit type: SYSTEM_ERROR"
    return RayActorError(actor_id, text)


def in_an_actor(error, actor_id="ab12"):
    """The error as Ray raises it in the caller."""
    wrapped = RayTaskError("f", f"ray::X.f() (pid=7, ip=1, actor_id={actor_id})", error, pid=7, ip="1")
    return wrapped.as_instanceof_cause()


def registered(waits, role, actor_id="ab12"):
    waits.actors._members[actor_id] = Member(role, Process(7, "10.0.0.1", "n", ()))
    return waits


@pytest.mark.parametrize("error", [TimeoutError("judge"), GetTimeoutError("judge"), WaitedTooLong("judge")])
async def test_an_actor_s_own_timeout_is_raised_as_it_is_and_our_limit_is_no_timeout_error(error):
    """`except TimeoutError` around a wait must not catch both."""
    with pytest.raises(type(error)) as caught:
        await Waits().result("reward", "scoring", fails(in_an_actor(error)), 60, "timeout_s")
    assert original(caught.value) is error
    with pytest.raises(type(error)) as caught:
        await Waits().answers("reward", "scoring", {"a": fails(in_an_actor(error))}, 60, "timeout_s")
    assert original(caught.value) is error
    assert not issubclass(WaitedTooLong, TimeoutError)


async def test_a_death_is_one_sentence_with_role_process_and_node():
    waits = registered(Waits(), "learner rank 1")
    with pytest.raises(ActorLost) as caught:
        await waits.answers("learner (2 ranks)", "updating", {"r": fails(lost())}, 60, "t")
    assert str(caught.value).startswith("learner rank 1 (pid 7 on node 10.0.0.1) died without an error of its own (")
    assert str(caught.value).endswith("It was updating. The run stops")
    assert "class_name" not in str(caught.value)
    assert isinstance(caught.value.__cause__, RayActorError), "Ray's page is kept for error.log"


async def test_the_death_of_a_peer_is_told_instead_of_its_consequence():
    """A rank that loses its connection fails before Ray has noticed the death."""
    told = asyncio.Event()

    async def consequence():
        told.set()
        raise in_an_actor(RuntimeError("Connection closed by peer"), "rank0")

    async def death():
        await told.wait()
        await asyncio.sleep(0)
        raise lost("rank1")

    waits = registered(registered(Waits(), "learner rank 0", "rank0"), "learner rank 1", "rank1")
    calls = {"learner rank 0": consequence(), "learner rank 1": death()}
    with pytest.raises(ActorLost, match=r"^learner rank 1 .*died"):
        await waits.answers("learner (2 ranks)", "updating", calls, 60, "t")


async def test_an_engine_s_own_error_is_told_instead_of_the_broken_transfer():
    calls = {"learner rank 0": fails(PeerLost("Timed out waiting 5 ms")), "rollout worker 0": fails(KeyError("b"))}
    with pytest.raises(KeyError) as caught:
        await Waits().answers("weight sync", "sending", calls, 60, "t")
    assert caught.value.__notes__ == ["raised in rollout worker 0: sending"]


async def test_a_broken_transfer_alone_names_who_did_not_answer(monkeypatch):
    monkeypatch.setattr("ssr1_rl.actors.waits.GRACE_S", 0.01)
    calls = {"learner rank 0": fails(in_an_actor(PeerLost("Timed out"))), "rollout worker 0": never()}
    calls["rollout worker 1"] = at_once()
    with pytest.raises(Unanswered, match=r"Timed out; no answer by then from rollout worker 0$") as caught:
        await Waits().answers("weight sync", "sending", calls, 60, "t")
    assert caught.value.silent == ("rollout worker 0",)


@pytest.mark.parametrize("error", [RunError("no space is left"), KeyError("b"), ValueError("2 shapes")])
async def test_an_error_that_no_death_explains_is_told_at_once(monkeypatch, error):
    async def grace(self, late):
        raise AssertionError("it waits")

    monkeypatch.setattr(Waits, "_failed_soon", grace)
    with pytest.raises(type(error)):
        await Waits().answers("learner", "saving", {"a": fails(in_an_actor(error)), "b": never()}, 60, "t")


async def test_at_the_limit_those_that_have_not_answered_are_named():
    calls = {f"worker {i}": never() if i % 2 else at_once() for i in range(12)}
    match = r"no answer from worker 1, worker 3, worker 5, worker 7 and 2 more; raise it"
    with pytest.raises(WaitedTooLong, match=match) as caught:
        await Waits().answers("weight sync", "sending", calls, 0.01, "t")
    assert len(caught.value.silent) == 6


async def test_answers_come_in_the_order_of_the_calls():
    async def after(turns, value):
        for _ in range(turns):
            await asyncio.sleep(0)
        return value

    assert await Waits().answers("w", "x", {"a": after(3, 1), "b": after(1, 2)}, 60, "t") == [1, 2]


async def test_an_engine_that_dies_without_work_is_told_too_with_what_it_was_part_of():
    waits = registered(Waits(), "rollout worker 0")
    error = await waits.first_lost({"rollout worker 0": fails(lost()), "rollout worker 1": never()})
    assert "It was idle." in str(error)
    with waits.of("weight sync", "sending version 3", ["rollout worker 0", "learner rank 0"]):
        error = await waits.first_lost({"rollout worker 0": fails(lost())})
    assert "It was sending version 3." in str(error)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The actor died because its node has died. Node Id: 5", "was lost with its node"),
        ("Task was killed due to the node running low on memory", "ran out of memory"),
        ("The actor is dead because it was killed by `ray.kill`.", "ray.kill"),
        ("Worker exit type: USER_ERROR exit detail: Worker exits with an exit code 3.", "ended with exit code 3"),
        ("connection error code 2. End of file.", "died without an error of its own"),
        ("", "died without an error of its own"),
    ],
)
def test_how_an_actor_ended(text, words):
    assert words in how_it_was_lost(RayActorError("ab", text))
    assert "\n" not in how_it_was_lost(RayActorError("ab", text))


def test_an_unreachable_actor_is_not_called_dead():
    assert "cannot be reached" in how_it_was_lost(ActorUnavailableError("gone", bytes(16)))


async def test_every_error_behind_an_error_leads_to_its_actor():
    waits = registered(Waits(), "rollout worker 3")
    try:
        try:
            raise in_an_actor(KeyError("x"))
        except KeyError as inner:
            raise RuntimeError("outer") from inner
    except RuntimeError as error:
        assert [str(m) for m in waits.actors.behind(error)] == ["rollout worker 3 (pid 7 on node 10.0.0.1)"]
    assert waits.actors.behind(ValueError("x")) == []
