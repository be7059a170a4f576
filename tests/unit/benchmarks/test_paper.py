"""The table of the miniature, and what is known of its chains."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from paper import _begin_with
from paper_table import ARMS, TESTS, draw, table, text_table
from paper_truth import measured_against_truth

NUM_SEEDS, NUM_QUESTIONS = 2, 50


def write_answers(folder: Path, num_right: int) -> None:
    """Greedy answers to 50 questions, in any order, and a sample of each, which does not count."""
    rows = [
        {"question_id": f"{number:02d}", "sample": sample, "is_right/accuracy": sample == -1 and number < num_right}
        for number in np.random.default_rng(num_right).permutation(NUM_QUESTIONS)
        for sample in (0, -1)
    ]
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "answers.parquet")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paper")
    recipes = {(arm, seed): folder / f"{arm}_{seed}" for arm in ARMS for seed in range(NUM_SEEDS)}
    for number, ((_, seed), recipe) in enumerate(recipes.items()):
        for test in TESTS:
            write_answers(recipe / "evaluate/pretrained" / test, 10)
            write_answers(recipe / "evaluate/sft" / test, 20 + seed)
            write_answers(recipe / "evaluate/grpo" / test, 30 + number)
    return table(recipes, NUM_SEEDS)


def test_a_row_is_the_mean_over_its_seeds_with_an_interval_around_it(found):
    assert list(found["rows"]) == ["pretrained", *ARMS.values(), *(f"{name} + GRPO" for name in ARMS.values())]
    row = found["rows"]["labels"]["test"]
    assert row["mean"] == pytest.approx(100 * 20.5 / 50)
    assert row["seeds"] == [40.0, 42.0]
    # The share of 50 questions has a standard error of 6.9 %.
    assert 20 < row["low"] < 32 and 50 < row["high"] < 62


def test_differences_are_paired_by_question(found):
    difference = found["differences"]["labels - pretrained"]["unseen_scenes"]
    assert difference["mean"] == pytest.approx(100 * 10.5 / 50)
    assert difference["low"] > 0
    assert found["differences"]["chains - labels"]["test"] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_the_table_and_the_plot_have_every_row(found, tmp_path):
    lines = text_table(found).splitlines()
    assert lines[2].startswith("| pretrained | 20.0 (")
    assert len(lines) == 2 + 7
    draw({"table": found}, tmp_path / "paper.png")
    assert (tmp_path / "paper.png").read_bytes().startswith(b"\x89PNG")


def test_a_recipe_begins_with_the_chains_of_the_first(tmp_path):
    first, second = tmp_path / "validated_0", tmp_path / "labels_0"
    _begin_with(first, first)
    assert list(first.iterdir()) == []
    for stage in ("generate", "verify", "sft"):
        (first / stage).mkdir()
        (first / stage / "file").write_text(stage)
    (first / "recipe.json").write_text(
        json.dumps({stage: {"is_done": True} for stage in ("generate", "verify", "sft")})
    )
    _begin_with(first, second)
    assert {path.name for path in second.iterdir()} == {"generate", "verify", "recipe.json"}
    assert list(json.loads((second / "recipe.json").read_text())) == ["generate", "verify"]


def test_the_check_is_measured_by_what_sounds(tmp_path):
    sounds = ["rattle", "hiss", "buzzer", "hiss"]
    clip = {"sounds": sounds, "asked": {"kind": "same", "about": []}, "seen": [["rattle", "whistle"], [], [], []]}
    (tmp_path / "truth.json").write_text(json.dumps({"clip": clip}))
    (tmp_path / "train.json").write_text(json.dumps([{"id": 7, "video_name": "clip"}]))
    end = "The first is a {} and the last a hiss: not the same."
    true = "First a rattle. Second a hiss. Third a buzzer. Fourth a hiss. " + end.format("rattle")
    false = true.replace("rattle", "whistle")
    rows = [(true, True, True), (false, True, False), (false, True, True), (true, True, False), ("?", False, False)]
    chains = [
        {"question_id": "7", "thoughts": text, "kept": kept, "is_right": kept, "validated": validated}
        for text, kept, validated in rows
    ]
    pq.write_table(pa.Table.from_pylist(chains), tmp_path / "verified.parquet")
    found = measured_against_truth(tmp_path, tmp_path / "verified.parquet")
    assert (found["num_kept"], found["num_validated"]) == (4, 2)
    assert (found["precision"], found["recall"], found["grounded_share_of_kept"]) == (0.5, 0.5, 0.5)
    assert found["grounded_share_of_kept_by_trap"] == {"companions together": 0.5, "others": None}
