"""What integration tests share beside tests/conftest.py: a running system, and the end of their learner ranks."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.run import demo_config
from ssr1_rl.rollout.prepare import Preparer
from ssr1_rl.system import System, running_system
from ssr1_rl.types import PreparedQuestion
from tests.integration.ranks import end_ranks


@pytest.fixture(scope="session", autouse=True)
def _end_ranks() -> Iterator[None]:
    yield
    end_ranks()


@pytest.fixture(scope="session")
def system_config(soundworld: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    overrides = [
        f"run.dir={tmp_path_factory.mktemp('sync')}",
        "rollout.num_workers=2",
        "rollout.num_threads=1",
        "rollout.num_cpus=0.5",
        "rollout.top_p=0.95",
        "rollout.top_k=40",
        "rollout.min_p=0.001",
        "learner.num_workers=2",
        "learner.zero_stage=3",
        "learner.num_threads=1",
        "learner.num_cpus=0.5",
        "learner.learning_rate=0.01",
        "grpo.questions_per_step=4",
        "grpo.group_size=4",
        "grpo.num_minibatches=1",
    ]
    return demo_config(soundworld, 0, overrides)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def system(system_config: Config, ray_cluster: None) -> AsyncIterator[System]:
    """Two engines and two learner ranks (ZeRO-3) with the small world's model.

    Every test that only needs some running system shares it: it finds whatever weights and policy version the tests
    before it have left, and calls it in the session's event loop, `pytest.mark.asyncio(loop_scope="session")`.
    """
    async with running_system(system_config, max_clips=1, waits=Waits(), on_phase=lambda phase: None) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def prepared(system_config: Config, ray_cluster: None) -> list[PreparedQuestion]:
    """Eight questions as `system`'s pool takes them."""
    data = system_config.data
    preparer = Preparer(PromptBuilder(system_config.model.path, data), data)
    questions = read_questions(data.train, 0.0).questions[:8]
    return [await preparer.prepare(question) for question in questions]
