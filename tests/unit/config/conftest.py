"""A launch file with what every run needs, and the loader of it."""

import pytest

from ssr1_rl.checks.rules import load_config

NEEDED = "run: {name: x, device: cpu}\nmodel: {path: m}\ndata: {train: {path: q.json}}\n"


@pytest.fixture
def load(tmp_path):
    """Loads NEEDED followed by some text (or `start` instead of NEEDED), with overrides."""

    def load(text="", *overrides, start=NEEDED):
        path = tmp_path / "launch.yaml"
        content = start + text
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_config(path, overrides)

    return load
