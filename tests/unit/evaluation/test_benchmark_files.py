"""The benchmarks in the form in which they are distributed, and the file that MMAU's official script takes."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssr1_rl.checks.eval_preflight import read_validation
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.evaluation.evaluate import evaluate_models
from ssr1_rl.inference.request import Answer
from tests.unit.data import distributed
from tests.unit.evaluation.answering import Model, tagged


def official_script(rows):
    """The shares that MMAU's own evaluation.py prints for a file: total and by task."""

    def tokens(text):
        return set(re.findall(r"\b\w+\b", text.lower()))

    num_right, by_task = 0, {}
    answered = [row for row in rows if "model_output" in row]
    for row in answered:
        answer, said = tokens(row["answer"]), tokens(row["model_output"])
        wrong = set().union(*(tokens(choice) - answer for choice in row["choices"]))
        is_right = bool(said) and answer <= said and said.isdisjoint(wrong)
        num_right += is_right
        by_task.setdefault(row["task"], []).append(is_right)
    return num_right / len(answered), {task: sum(found) / len(found) for task, found in by_task.items()}


def test_the_file_for_mmau_s_script_has_every_row_as_it_was_and_gives_our_official_score(make):
    make.row("1").row("2", task="music").row("3", task="music").row("4", clip=False).row("5").row("6", "dog barking")
    texts = {
        "1": tagged("(A)"),
        "2": "hear a loud dog",
        "3": tagged("cat"),
        "5": RuntimeError("the engine refused it"),
        "6": tagged("dog"),
    }
    results = make.evaluate(base=Model(texts))
    written = make.json("base/mini/mmau.json")
    assert [{k: v for k, v in row.items() if k != "model_output"} for row in written] == make.rows
    assert [row["model_output"] for row in written] == ["dog", "hear a loud dog", "cat", "", "", "dog"]
    share, by_task = official_script(written)
    scores = results.figures["base"]["mini"].rules["mmau"]
    assert share == scores.overall["greedy"].value == 2 / 6
    assert by_task["music"] == scores.groups["kind"]["music"]["greedy"].value == 1 / 2


def test_mmau_s_script_agrees_where_choices_carry_letters_in_the_file(make):
    lettered = ["(A) dog", "(B) cat"]
    for name in "123":
        make.row(name, "(A) dog", choices=lettered)
    results = make.evaluate(base=Model({"1": tagged("A"), "2": tagged("dog"), "3": tagged("B")}))
    written = make.json("base/mini/mmau.json")
    assert [row["model_output"] for row in written] == ["(A) dog", "(A) dog", "(B) cat"]
    share, _ = official_script(written)
    assert share == results.figures["base"]["mini"].rules["mmau"].overall["greedy"].value == 2 / 3


def test_a_benchmark_in_another_format_is_scored_by_its_rule(make, tmp_path):
    """MMAU as a table: the rule is MMAU's, and its script's file is for its own JSON alone."""
    row = {"question": "What?", "choices": ["dog", "cat"], "answer": "dog"}
    parquet = tmp_path / "mini.parquet"
    pq.write_table(pa.Table.from_pylist([row | {"id": name} for name in "12"]), parquet)
    make.config.data.validation = {"table": DatasetConfig("parquet", str(parquet), official_rule="mmau")}
    splits = read_validation(make.config.data)
    model = Model({"1": tagged("dog, since it barks"), "2": tagged("cat")})
    results = evaluate_models({"base": "m"}, splits, make.config, make.run, print, lambda path: model)
    scores = results.figures["base"]["table"].rules
    assert {rule: of.overall["greedy"].value for rule, of in scores.items()} == {"mmau": 0.5, "accuracy": 0.0}
    assert not (make.run / "base/table/mmau.json").exists()


@pytest.mark.parametrize("by_label", [False, True])
def test_right_answers_to_each_benchmark_as_it_is_distributed(tmp_path, by_label):
    (avqa, avqa_clips), mmau = distributed.avqa(tmp_path), distributed.mmau(tmp_path)
    music, music_clips = distributed.music_avqa(tmp_path)
    config = Config()
    config.data.max_skipped_share = 0.9
    config.data.validation = {
        "avqa": DatasetConfig("avqa", str(avqa), str(avqa_clips)),
        "mmau": DatasetConfig("mmau", str(mmau)),
        "music": DatasetConfig("music_avqa", str(music), str(music_clips), choices_from_answers=True),
        "reasoning": DatasetConfig("mmau", str(mmau), kinds=["speech", "music"], max_questions=3),
    }
    splits = read_validation(config.data)
    labels = {
        (name, question.id): f"({'ABCDEFGH'[question.choices.index(question.ground_truth)]}) {question.ground_truth}"
        if by_label and question.choices
        else question.ground_truth
        for name, split in splits.items()
        for question in split.questions
    }

    class Knows(Model):
        def answer(self, row):
            return Answer(row["key"], tagged(labels[row["key"].split("/")[0], row["id"]]), 10, 5, "stop")

    run = tmp_path / "run"
    results = evaluate_models({"base": "m"}, splits, config, run, print, lambda path: Knows({}))
    for name, split in splits.items():
        num = len(split.questions)
        scores = results.figures["base"][name].rules
        assert len(scores) == 2 and num > 2
        assert {rule: of.overall["greedy"].value for rule, of in scores.items()} == {
            rule: num / (num + len(split.skipped)) for rule in scores
        }
    rows = json.loads(mmau.read_text())
    written = json.loads((run / "base/mmau/mmau.json").read_text())
    assert [{k: v for k, v in row.items() if k != "model_output"} for row in written] == rows
    share, _ = official_script(written)
    assert share == results.figures["base"]["mmau"].rules["mmau"].overall["greedy"].value
    some = json.loads((run / "base/reasoning/mmau.json").read_text())
    assert [row["id"] for row in some if row["model_output"]] == [q.id for q in splits["reasoning"].questions]
    assert len(some) == len(splits["reasoning"].questions) + len(splits["reasoning"].skipped)
