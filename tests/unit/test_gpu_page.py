"""The commands and settings of docs/gpu.md and README's part on GPUs exist."""

import re
import shlex
from pathlib import Path

import pytest

from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.schema import Config
from ssr1_rl.config.values import nearest

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / "docs" / "gpu.md").read_text(), (ROOT / "README.md").read_text()]


def commands(page, start):
    """Lines of the page's code blocks that contain `start`, without comments and with their continuation."""
    blocks = re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if start in line]


@pytest.mark.parametrize("page", PAGES, ids=["gpu.md", "README.md"])
def test_every_run_on_the_page_has_settings_that_are_accepted(page):
    runs = [words for words in commands(page, "launch/grpo.yaml") if "launch/grpo.yaml" in words]
    assert len(runs) >= 2
    for words in runs:
        overrides = [word for word in words[words.index("launch/grpo.yaml") + 1 :] if not word.startswith("--")]
        load_config(ROOT / "launch" / "grpo.yaml", overrides)


def test_every_way_back_is_a_setting_that_is_accepted():
    ways = re.findall(r"`((?:rollout|model|grpo|learner)\.[a-z_.]+=[^`]+)`", PAGES[0])
    assert len(ways) >= 6
    for way in ways:
        load_config(ROOT / "launch" / "grpo.yaml", [way])


def test_every_setting_on_the_page_exists():
    for section, name in re.findall(r"`(run|rollout|model|grpo|learner|guard|data)\.([a-z_0-9]+)", PAGES[0]):
        assert hasattr(getattr(Config(), section), name), f"{section}.{name}: {nearest(name, dir(Config()))}"


def test_make_has_the_targets_and_the_program_the_checks():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for words in commands(page, "make "):
            if words[0] != "make":
                continue
            assert re.search(rf"^{words[1]}:", makefile, flags=re.MULTILINE), words
    registry = (ROOT / "benchmarks" / "gpu_checks" / "registry.py").read_text()
    listed = re.findall(r'Check\("(\w+)"', registry)
    described = re.findall(r"`(\w+)`", "".join(line for line in PAGES[0].splitlines() if line.startswith("| `")))
    assert set(listed) <= set(described)
