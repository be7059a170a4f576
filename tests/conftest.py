"""What tests share: one Ray cluster, one small world, tiny models. Built once per test session."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


# Ray runs its workers at a niceness of 15, and tests beside them would slow them down many times over.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests come first, while no engine runs; the benchmarks' programs, which share nothing, come last."""
    items.sort(key=lambda item: 0 if item.nodeid.startswith(UNIT) else 2 if item.nodeid.startswith(BENCHMARKS) else 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together where two processes run them (`pytest -n 2`): those that share a start."""
    from xdist.scheduler import LoadScopeScheduling

    class Streams(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if nodeid.startswith((UNIT, BENCHMARKS)):
                return nodeid
            if nodeid.startswith("tests/e2e/"):
                return "runs"
            return "cluster" if Path(nodeid.split("::")[0]).name in IN_CLUSTER else "learner ranks"

    config.option.loadscopereorder = False
    return Streams(config, log)


UNIT, BENCHMARKS = "tests/unit/", "tests/integration/test_benchmarks.py"
IN_CLUSTER = (
    "test_data_check.py",
    "test_distill.py",
    "test_doctor.py",
    "test_evaluation.py",
    "test_inference.py",
    "test_reward_pool.py",
    "test_sft.py",
    "test_system.py",
    "test_verifier.py",
    "test_weight_sync.py",
)
"""Of tests/integration, what needs the Ray cluster and no learner rank of ranks.py."""
TEXTS = ["How many beeps are there? <think> one beep and two </think> <answer> three </answer>"]


@pytest.fixture(scope="session")
def random_audio_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-Audio of random weights: 2 layers, a tower of 2 layers."""
    from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio

    folder = tmp_path_factory.mktemp("models") / "audio"
    return build_tiny_qwen2_audio(folder, TEXTS, hidden_size=64, num_layers=2, tower_size=64)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray with more logical CPUs than cores, so that every test's actors fit."""
    import ray

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def soundworld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with world/ (small) and sft/ (a tiny model after a few SFT steps)."""
    import torch

    from ssr1_rl.demo.run import make_soundworld
    from ssr1_rl.demo.soundworld import WorldSettings

    # Two threads of a tiny model wait for each other on a busy machine, ten times as long.
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("soundworld")
    settings = WorldSettings(num_train=320, num_test=24, num_unseen_scenes=8, num_unseen_questions=8)
    make_soundworld(folder, seed=0, settings=settings, sft_steps=30)
    return folder


@pytest.fixture(scope="session")
def tiny_audio_model(soundworld: Path) -> Path:
    """A tiny Qwen2-Audio folder."""
    return soundworld / "sft"
