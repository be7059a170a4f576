"""The controller drives the weight sync: both sides at once, every call with a limit, the first error told at once."""

import asyncio
from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError

from ssr1_rl.actors.handle import Actor
from ssr1_rl.actors.limits import inner_limit_s
from ssr1_rl.actors.roster import ActorLost
from ssr1_rl.actors.waits import WaitedTooLong, Waits
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.errors import PeerLost
from ssr1_rl.system import System, _end_workers


class Worker:
    """A double of a rollout worker's actor: notes its calls, which answer at once unless told otherwise."""

    def __init__(self, log, index=0, **answers):
        self._log, self._index, self._answers = log, index, answers

    def __getattr__(self, method):
        def remote(*args):
            self._log.append((self._index, method, args))
            return self._answers.get(method, at_once)()

        return SimpleNamespace(remote=remote)


class Learners:
    """A double of the learner group."""

    def __init__(self, log, send=None):
        self._log, self._send = log, send or at_once

    async def find_port(self, port, setting):
        return "node", 5

    async def update_info(self):
        return {"names": ["a"]}

    async def weight_digests(self):
        return {}

    def join_engines(self, rendezvous):
        self._log.append(("learners", "join_engines", (rendezvous.world_size,)))
        self.rendezvous = rendezvous
        return {"learner rank 0": at_once()}

    def send_weights(self):
        self._log.append(("learners", "send_weights", ()))
        return {"learner rank 0": self._send()}


async def at_once():
    return []


async def never():
    await asyncio.Event().wait()


async def fails():
    raise ConnectionError("engine 1 ran out of memory")


def system(workers, learners, **config):
    return System(RolloutConfig(**config), [Actor(worker) for worker in workers], None, None, learners, Waits())  # type: ignore[arg-type]


@pytest.mark.parametrize("what", ["starting", "finishing"])
async def test_an_engine_that_does_not_answer_the_weight_audit_is_named(what):
    method = "start_weight_audit" if what == "starting" else "finish_weight_audit"
    under_test = system([Worker([], **{method: never})], Learners([]), sync_timeout_s=0.05)
    with pytest.raises(
        WaitedTooLong,
        match=rf"{what} the weight audit .* longer than rollout\.sync_timeout_s=0\.05 s; .*worker 0; raise it",
    ):
        await asyncio.wait_for(under_test.sync_weights(1, audit=True), 5)


@pytest.mark.parametrize(
    ("num_workers", "tensor_parallel", "offsets"), [(1, 1, [1]), (3, 1, [1, 2, 3]), (3, 4, [1, 5, 9])]
)
async def test_the_ranks_of_every_engine_follow_those_of_the_one_before(num_workers, tensor_parallel, offsets):
    log = []
    workers = [Worker(log, index) for index in range(num_workers)]
    await system(workers, Learners(log), tensor_parallel_size=tensor_parallel).connect("cpu")
    joined = [args for _, method, args in log if method == "init_weight_transfer"]
    assert [rendezvous["rank_offset"] for rendezvous, _ in joined] == offsets
    world_size = 1 + num_workers * tensor_parallel
    assert all(rendezvous["world_size"] == world_size and rendezvous["master_port"] == 5 for rendezvous, _ in joined)
    assert all(update_info == {"names": ["a"]} for _, update_info in joined)
    assert ("learners", "join_engines", (world_size,)) in log


async def test_one_control_message_per_engine_and_sync():
    log = []
    await system([Worker(log, 0), Worker(log, 1)], Learners(log)).sync_weights(7)
    assert set(log) == {("learners", "send_weights", ()), (0, "apply_weights", (7,)), (1, "apply_weights", (7,))}
    assert len(log) == 3


async def test_the_error_of_one_engine_ends_a_sync_that_the_others_wait_in(monkeypatch):
    monkeypatch.setattr("ssr1_rl.actors.waits.GRACE_S", 0.01)
    workers = [Worker([], 0, apply_weights=never), Worker([], 1, apply_weights=fails)]
    with pytest.raises(ConnectionError, match="engine 1 ran out of memory"):
        await asyncio.wait_for(system(workers, Learners([], send=never)).sync_weights(1), 5)


async def test_one_operation_of_the_transfer_has_a_shorter_limit_than_the_sync():
    learners = Learners([])
    config = RolloutConfig()
    await system([Worker([])], learners).connect("cpu")
    assert learners.rendezvous.timeout_s == inner_limit_s(config.sync_timeout_s) < config.sync_timeout_s
    assert config.sync_timeout_s < config.generate_timeout_s, "a sync pauses the groups in flight"


async def test_an_engine_that_dies_in_a_sync_is_told_and_not_the_broadcast_that_it_breaks():
    """Learner rank 0's connection breaks before Ray has noticed the engine's death."""
    broken = asyncio.Event()

    async def breaks():
        broken.set()
        raise PeerLost("a broadcast of the weight transfer failed (Connection closed by peer)")

    async def dies():
        await broken.wait()
        await asyncio.sleep(0)
        raise RayActorError("ab12", "The actor died unexpectedly")

    workers = [Worker([], 0, apply_weights=never), Worker([], 1, apply_weights=dies)]
    with pytest.raises(ActorLost, match=r"^rollout worker 1 died .* It was sending and loading version 4"):
        await asyncio.wait_for(system(workers, Learners([], send=breaks)).sync_weights(4), 5)


async def test_an_engine_that_dies_without_work_is_noticed():
    async def dies():
        raise RayActorError("ab12", "The actor died unexpectedly")

    with pytest.raises(ActorLost, match=r"^rollout worker 1 died .* It was idle"):
        await system([Worker([], 0, stay=never), Worker([], 1, stay=dies)], Learners([])).engine_lost()


async def test_the_wait_for_engines_to_end_can_be_cancelled_and_kills_them_all():
    killed = []

    class Ending:
        def call(self, method):
            return never()

        def kill(self):
            killed.append(self)

    ending = asyncio.create_task(_end_workers([Ending(), Ending()]))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert len(killed) == 2
