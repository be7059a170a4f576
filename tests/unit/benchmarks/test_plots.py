"""The benchmarks' plots and page agree with the kept results; a busy machine gives a warning."""

import importlib
import itertools
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import gpu_learner
import prefix_packing
from common import RESULTS, warn_if_busy
from matplotlib.image import imread

KEPT = sorted(path.stem for path in RESULTS.glob("*.json"))


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture; fails if it has only one colour."""
    pixels = imread(path)
    assert pixels.min() < 0.9 < pixels.max()
    return pixels.shape[1], pixels.shape[0]


@pytest.mark.parametrize("program", KEPT)
def test_a_kept_result_has_its_plot(program, tmp_path):
    result = json.loads((RESULTS / f"{program}.json").read_text())
    importlib.import_module(program.removesuffix("_grid")).plot(result, tmp_path / "plot.png")
    assert size_of(tmp_path / "plot.png") == size_of(RESULTS / f"{program}.png")


PAGE = Path(__file__).parents[3] / "docs" / "benchmarks.md"
FIGURES = re.findall(r"^\| `(\w+\.json)` `([\w.]+)` \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("file", "key", "figure"), FIGURES)
def test_a_figure_on_the_page_is_the_kept_one(file, key, figure):
    value = json.loads((RESULTS / file).read_text())
    for name in key.split("."):
        value = value[name]
    assert f"{value:.{len(figure.partition('.')[2])}f}" == figure


def test_the_page_has_figures():
    assert len(FIGURES) > 10


def case(group_size, prompt, response, train_tower=False):
    sizes = {"group_size": group_size, "prompt_tokens": prompt, "response_tokens": response}
    return sizes | {"train_tower": train_tower, "speedup": 2.0, "speedup_allowed": 2.5}


def test_a_grid_grows_by_its_cells_and_not_by_its_cases(tmp_path):
    cases = [case(8, 310, 150, True), *(case(*sizes) for sizes in itertools.product((4, 8), (60, 310), (50, 150, 400)))]
    prefix_packing.plot({"cases": cases}, tmp_path / "grid.png")
    whole = size_of(tmp_path / "grid.png")
    assert whole[0] < 1000, "a bar for each of the 13 cases would be wider"
    prefix_packing.plot({"cases": cases[:-1]}, tmp_path / "hole.png")
    assert size_of(tmp_path / "hole.png") == whole, "a missing cell stays empty"


def test_mfu_has_a_panel_where_the_peak_is_known(tmp_path):
    sides = {f"{way}_flash": {"response_tokens_per_s": 9000.0, "mfu": 0.5} for way in ("packed", "repeated")}
    result = {"device": "NVIDIA H100", "parameters": 8.4e9, "sides": sides, "peak_tflops": 989}
    gpu_learner.plot(result, tmp_path / "known.png")
    gpu_learner.plot(result | {"peak_tflops": None}, tmp_path / "unknown.png")
    assert size_of(tmp_path / "known.png")[0] > size_of(tmp_path / "unknown.png")[0]


def test_a_busy_machine_is_warned_of_on_stderr(capsys):
    warn_if_busy(0.5)
    assert capsys.readouterr().err == ""
    warn_if_busy(0.62)
    printed = capsys.readouterr()
    assert "the machine is busy (load 0.62" in printed.err
    assert printed.out == "", "the last line of stdout is the result's"
