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
