"""No call to an engine is waited for without end."""

import asyncio
from types import SimpleNamespace

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.system import System


async def at_once(*_args):
    return [{}]


async def never():
    await asyncio.Event().wait()


@pytest.mark.parametrize("what", ["starting", "finishing"])
async def test_an_engine_that_does_not_answer_the_weight_audit_is_named(what):
    start, finish = (never, at_once) if what == "starting" else (at_once, never)
    worker = SimpleNamespace(
        start_weight_audit=SimpleNamespace(remote=start), finish_weight_audit=SimpleNamespace(remote=finish)
    )
    config = Config()
    config.rollout.sync_timeout_s = 0.05
    learners = SimpleNamespace(send_weights=at_once)
    system = System(config, [worker], None, None, learners)  # type: ignore[arg-type]
    with pytest.raises(
        TimeoutError, match=rf"were {what} the weight audit .* more than rollout\.sync_timeout_s=0\.05 s"
    ):
        await asyncio.wait_for(system.sync_weights(1, audit=True), 5)
