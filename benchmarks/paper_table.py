"""The miniature's table: rows of students, columns of tests, with intervals over questions and seeds; and its plot."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

ARMS = {"labels": "labels", "kept": "chains", "validated": "validated chains"}
"""What a student learns by SFT (`sft.responses`), and its name in the table."""
PRETRAINED = "pretrained"
TESTS = ("test", "unseen_scenes", "unseen_questions")
NUM_RESAMPLES = 2000


def table(recipes: Mapping[tuple[str, int], Path], num_seeds: int) -> dict[str, Any]:
    """Accuracy of every student on every test, and the differences on which the claim rests, in percent.

    An interval is a bootstrap over questions of the mean over seeds (95 %). The seeds are few, so it says how far the
    figure depends on the questions, and not how far on the seeds; those are listed one by one.

    Args:
        recipes: the folder of each recipe, by what its student learned from and by its seed.
    """
    rows = {PRETRAINED: [recipes["labels", 0] / "evaluate" / "pretrained"]}
    for stage, suffix in (("sft", ""), ("grpo", " + GRPO")):
        for arm, name in ARMS.items():
            rows[f"{name}{suffix}"] = [recipes[arm, seed] / "evaluate" / stage for seed in range(num_seeds)]
    right = {
        row: {test: [_right(folder / test) for folder in folders] for test in TESTS} for row, folders in rows.items()
    }
    return {
        "rows": {row: {test: _figure(found[test]) for test in TESTS} for row, found in right.items()},
        "differences": _differences(right),
    }


def _differences(right: Mapping[str, Mapping[str, list[np.ndarray]]]) -> dict[str, Any]:
    """Each row minus the one that it should exceed."""
    steps = [("labels", PRETRAINED), ("chains", "labels"), ("validated chains", "chains")]
    steps += [(f"{name} + GRPO", name) for name in ARMS.values()]
    steps += [("validated chains + GRPO", f"{name} + GRPO") for name in list(ARMS.values())[:2]]

    def mean(row: str, test: str) -> np.ndarray:
        return np.mean(right[row][test], axis=0)

    return {
        f"{more} - {less}": {test: _estimate(mean(more, test) - mean(less, test)) for test in TESTS}
        for more, less in steps
    }


def _figure(right_SQ: list[np.ndarray]) -> dict[str, Any]:
    """Mean and interval of the shares of right answers [seeds][questions]."""
    return _estimate(np.mean(right_SQ, axis=0)) | {"seeds": [round(100 * float(np.mean(r)), 2) for r in right_SQ]}


def _estimate(values_Q: np.ndarray) -> dict[str, float]:
    drawn = np.random.default_rng(0).integers(len(values_Q), size=(NUM_RESAMPLES, len(values_Q)))
    low, high = np.quantile(values_Q[drawn].mean(axis=1), [0.025, 0.975])
    return {
        name: round(100 * float(value), 2) for name, value in (("mean", values_Q.mean()), ("low", low), ("high", high))
    }


def _right(folder: Path) -> np.ndarray:
    """Whether each greedy answer of a model on a test is right, in the order of the questions' ids."""
    answers = pq.read_table(folder / "answers.parquet").to_pylist()
    greedy = sorted((a["question_id"], bool(a["is_right/accuracy"])) for a in answers if a["sample"] == -1)
    return np.array([is_right for _, is_right in greedy], dtype=float)


def text_table(found: Mapping[str, Any]) -> str:
    """The table as Markdown."""
    lines = ["| student | " + " | ".join(TESTS) + " |", "|---|" + "---|" * len(TESTS)]
    for row, figures in found["rows"].items():
        cells = [f"{f['mean']:.1f} ({f['low']:.1f} to {f['high']:.1f})" for f in (figures[test] for test in TESTS)]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(result: Mapping[str, Any], path: Path) -> None:
    """One panel for each test: the students' accuracy, with intervals and seeds."""
    from plots import BLUE, GREEN, GREY, new_figure, save

    rows = list(result["table"]["rows"])
    figure, panels = new_figure("The claim in miniature: right answers in %", 11, 3.2, len(TESTS))
    for axes, test in zip(panels, TESTS, strict=True):
        figures = [result["table"]["rows"][row][test] for row in rows]
        means = [f["mean"] for f in figures]
        errors = [[f["mean"] - f["low"] for f in figures], [f["high"] - f["mean"] for f in figures]]
        colours = [GREY if row == PRETRAINED else GREEN if row.endswith("GRPO") else BLUE for row in rows]
        axes.barh(range(len(rows)), means, xerr=errors, color=colours, height=0.6, error_kw={"linewidth": 1})
        for position, f in enumerate(figures):
            axes.plot(f["seeds"], [position] * len(f["seeds"]), ".", color="black", markersize=3)
            axes.text(101, position, f"{f['mean']:.1f}", fontsize=8, verticalalignment="center")
        axes.set_yticks(range(len(rows)), rows if axes is panels[0] else [])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_title(test.replace("_", " "), fontsize=9, loc="left")
    save(figure, path)
