"""What tests share: one Ray cluster, one small world, tiny models. Built once per test session."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "error")
os.environ.setdefault("DS_ACCELERATOR", "cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Unit tests come first, dealt out to all of pytest-xdist's workers; all others run in one, one after another."""

    def is_unit(item: pytest.Item) -> bool:
        return item.path.is_relative_to(UNIT)

    items.sort(key=lambda item: not is_unit(item))
    for item in items:
        if not is_unit(item):
            item.add_marker(pytest.mark.xdist_group("engines"))


UNIT = Path(__file__).parent / "unit"
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
