"""The loop with doubles in place of actors: what ends a step, and in which order a run is left."""

import asyncio
from types import SimpleNamespace

import pytest

from ssr1_rl.actors.roster import ActorLost
from ssr1_rl.config.schema import Config
from ssr1_rl.grpo import Grpo


class Loop(Grpo):
    """The loop without what it trains: `do` is each step, `log` is what was called."""

    def __init__(self, engine_lost, do, **grpo):
        self._config = Config()
        self._config.grpo.validate_first = False
        for name, value in grpo.items():
            setattr(self._config.grpo, name, value)
        self.step, self._resume_from, self.log = 0, None, []
        self._feed = SimpleNamespace(failed=never, close=lambda: self.log.append("feed"))
        rewards = SimpleNamespace(shutdown=lambda: self.log.append("rewards"))
        self._system = SimpleNamespace(engine_lost=engine_lost, rewards=rewards)
        self._metrics = SimpleNamespace(close=lambda: self.log.append("metrics"))
        self._probe = SimpleNamespace(close=lambda: self.log.append("probe"))
        self._do = do

    async def _train_one_step(self):
        self.step += 1
        await self._do()

    async def _save(self, score):
        self.log.append("saving")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.log.append("saved")

    def _is_best(self, score):
        return True


async def never():
    await asyncio.Event().wait()


async def at_once():
    return None


async def test_an_engine_that_dies_ends_an_update_at_once():
    updating = asyncio.Event()

    async def update():
        updating.set()
        await never()

    async def lost():
        await updating.wait()
        raise ActorLost("rollout worker 1 died")

    with pytest.raises(ActorLost, match="rollout worker 1 died"):
        await asyncio.wait_for(Loop(lost, update).run(), 5)


async def test_a_checkpoint_is_finished_before_an_engine_s_death_is_told():
    loop = Loop(None, at_once, num_steps=3, validate_every=0)

    async def lost():
        while "saving" not in loop.log:
            await asyncio.sleep(0)
        raise ActorLost("rollout worker 1 died")

    loop._system.engine_lost = lost
    with pytest.raises(ActorLost):
        await asyncio.wait_for(loop.run(), 5)
    assert loop.log == ["saving", "saved"]


def test_reward_actors_are_closed_before_the_groups_that_they_score_are_cancelled():
    """Otherwise each would be killed and replaced, just before the end."""
    loop = Loop(never, at_once)
    loop.close()
    assert loop.log.index("rewards") < loop.log.index("feed")
