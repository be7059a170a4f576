"""The actors of a reward function as the controller starts them; real ones are in tests/integration."""

from concurrent.futures import Future

import pytest

from ssr1_rl.actors.roster import Process
from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.faults.budget import RewardFailure
from ssr1_rl.rewards import actor_group
from ssr1_rl.rewards.actor_group import ActorGroup
from ssr1_rl.rewards.load import check_reward


class FakeActor:
    """An actor that never loads its function."""

    made = 0

    def __init__(self):
        FakeActor.made += 1
        self.id = f"{FakeActor.made:032x}"

    @classmethod
    def create(cls, kind, options, source):
        return cls()

    def run(self, function):
        process = Process(7, "10.0.0.1", "ab", ("/log.err",))
        return _Reference(process)

    def call(self, method, *args):
        return _Reference()

    def kill(self):
        pass


class _Reference:
    def __init__(self, *values):
        self._future = Future()
        for value in values:
            self._future.set_result(value)

    def future(self):
        return self._future


def group_of(waits, **settings):
    return ActorGroup(check_reward(RewardConfig(name="accuracy", **settings), "rewards[0]"), waits)


async def test_an_actor_that_never_starts_is_named_so_that_the_end_of_its_log_is_kept(monkeypatch):
    monkeypatch.setattr(actor_group, "Actor", FakeActor)
    waits = Waits()
    group = group_of(waits, num_actors=2)
    group._start_timeout_s = 0.01
    with pytest.raises(RewardFailure, match="could not start: no answer within") as caught:
        await group.ready()
    [member] = waits.actors.behind(caught.value)
    assert (member.role, member.process.logs) == ("reward function 'accuracy', actor 0", ("/log.err",))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_cpus": 2.5}, r"^an actor of rewards\[0\] is refused by Ray: no such option.*num_cpus=2\.5, num_gpus=0$"),
        ({"runtime_env": {"pip": ["x"]}}, r"^rewards\[0\]\.runtime_env \(pip\) is refused by Ray: no such option"),
    ],
)
async def test_what_ray_refuses_is_the_fault_of_a_runtime_env_only_where_there_is_one(monkeypatch, settings, said):
    class Refusing(FakeActor):
        @classmethod
        def create(cls, kind, options, source):
            raise ValueError("no such option")

    monkeypatch.setattr(actor_group, "Actor", Refusing)
    with pytest.raises(ConfigError, match=said):
        group_of(Waits(), **settings)
