"""What unit tests share: one thread (tests run in parallel), and tiny models with random weights."""

from pathlib import Path

import hypothesis
import pytest
import torch

from tests.conftest import TEXTS

torch.set_num_threads(1)
# A property must also hold on a busy machine.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def random_omni_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2.5-Omni of random weights: 2 layers, an audio tower of 2 layers."""
    from tests.tiny_omni import build_tiny_omni

    return build_tiny_omni(tmp_path_factory.mktemp("models") / "omni", TEXTS)


@pytest.fixture(scope="session")
def random_text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of random weights and 2 layers."""
    from benchmarks.tiny_text import build_tiny_qwen2_text

    folder = tmp_path_factory.mktemp("models") / "text"
    return build_tiny_qwen2_text(folder, TEXTS, hidden_size=64, intermediate_size=128, num_layers=2)


@pytest.fixture(scope="session")
def random_vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Idefics3 of random weights: 2 layers, a tower of 2 layers, images of 64 x 64 pixels and 16 tokens."""
    from ssr1_rl.demo.tiny_vision import build_tiny_idefics3

    folder = tmp_path_factory.mktemp("models") / "vision"
    sizes = {"hidden_size": 64, "num_layers": 2, "tower_size": 64, "patch_size": 8, "scale_factor": 2}
    return build_tiny_idefics3(folder, TEXTS, **sizes)
