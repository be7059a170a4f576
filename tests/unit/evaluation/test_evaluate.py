"""Models' answers to splits become figures and files."""

import pyarrow.parquet as pq
import pytest

from ssr1_rl.checks.eval_preflight import read_validation
from ssr1_rl.data.skipped import SkipList
from ssr1_rl.evaluation.validation import evaluate
from ssr1_rl.inference.answers import TooManyFailed
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.types import Completion, RolloutGroup, ScoredGroup
from tests.unit.evaluation.answering import Model, tagged
from tests.unit.rollout.test_feed import GREEDILY, World


def test_rows_that_failed_or_cannot_be_read_are_wrong_and_said(make):
    make.row("1").row("2").row("3", clip=False).row("4")
    make.config.evaluation.num_samples = 2
    texts = {"1": tagged("dog"), "2": RuntimeError("too long"), ("4", "1"): RuntimeError("lost"), "4": tagged("dog")}
    found = make.evaluate(base=Model(texts)).figures["base"]["mini"]
    assert (found.num_questions, found.num_unreadable, found.num_failed, found.num_failed_samples) == (4, 1, 1, 3)
    measures = {name: estimate.value for name, estimate in found.rules["accuracy"].overall.items()}
    assert measures == {"greedy": 2 / 4, "pass@1": (1 + 0 + 0 + 1 / 2) / 4, "majority@2": (1 + 0 + 0 + 1) / 4}
    [note] = make.notes
    assert note.startswith("base on mini: of 4 questions 1 cannot be read and 1 failed (3 of their samples)")
    rows = pq.read_table(make.run / "base/mini/answers.parquet").to_pylist()
    errors = {(row["question_id"], row["sample"]): row["error"] for row in rows if row["error"]}
    assert errors["2", -1] == "too long" and errors["4", 1] == "lost"
    assert "no such file" in errors["row 3", -1] or "audio_id" in errors["row 3", -1]
    assert len(rows) == 4 * 3


def test_too_many_failures_stop_the_evaluation(make):
    for name in "12345":
        make.row(name)
    make.config.evaluation.max_failed_share = 0.2
    with pytest.raises(TooManyFailed, match=r"base answers: 2 of .* rows failed"):
        make.evaluate(base=Model(dict.fromkeys("12345", RuntimeError("the clip is silent"))))


def test_scores_by_kind_category_and_difficulty(make):
    make.row("1", task="sound", category=["x", "y"]).row("2", task="music", category="x", difficulty="hard")
    found = make.evaluate(base=Model({"1": tagged("dog"), "2": tagged("cow")})).figures["base"]["mini"]
    groups = {
        (column, value): (measures["greedy"].value, measures["greedy"].num_questions)
        for column, values in found.rules["mmau"].groups.items()
        for value, measures in values.items()
    }
    assert groups == {
        ("kind", "sound"): (1.0, 1),
        ("kind", "music"): (0.0, 1),
        ("category", "x"): (0.5, 2),
        ("category", "y"): (1.0, 1),
        ("difficulty", "easy"): (1.0, 1),
        ("difficulty", "hard"): (0.0, 1),
    }


def test_cut_off_and_missing_answers_are_counted(make):
    make.row("1").row("2").row("3").row("4")
    texts = {"1": "<think> a dog …", "2": tagged("dog"), "3": tagged(""), "4": "dog"}
    found = make.evaluate(base=Model(texts)).figures["base"]["mini"]
    assert (found.cut_off_share, found.no_answer_share) == (1 / 4, 2 / 4)
    assert found.response_tokens_mean == pytest.approx((4 + 6 + 5 + 1) / 4)
    assert found.rules["mmau"].overall["greedy"].value == 2 / 4
    assert found.rules["accuracy"].overall["greedy"].value == 1 / 4, "ours asks for tags"


def test_models_are_compared_and_written(make):
    for name in "12345678":
        make.row(name)
    good = Model(dict.fromkeys("12345678", tagged("dog")))
    bad = Model(dict.fromkeys("12345678", tagged("cat")))
    results = make.evaluate(good=good, bad=bad)
    (pair,) = results.comparisons
    assert (pair.model, pair.other, pair.difference.value) == ("good", "bad", 1.0)
    assert pair.p_value == pytest.approx(2 / 2**8)
    saved = make.json("results.json")
    assert saved["figures"]["good"]["mini"]["rules"]["accuracy"]["overall"]["greedy"]["value"] == 1.0
    assert saved["comparisons"][0]["p_value_holm"] == pair.p_value
    assert saved["settings"]["prompts"]["data.instruction"] == make.config.data.instruction
    assert "| good | 100.0 [100.0, 100.0] | 100.0 [100.0, 100.0] |" in (make.run / "table.md").read_text()
    assert (make.run / "table.csv").read_text().startswith("split,model,other_model,rule,measure")


def test_the_figures_of_finished_models_are_there_when_a_later_one_fails(make):
    make.row("1").row("2")
    with pytest.raises(TooManyFailed):
        make.evaluate(good=Model(dict.fromkeys("12", tagged("dog"))), bad=Model(dict.fromkeys("12", OSError("no"))))
    assert list(make.json("results.json")["figures"]) == ["good"]


async def test_the_accuracy_equals_the_score_of_grpo_s_validation(make, tmp_path):
    texts = {
        "1": tagged("A"),
        "2": tagged("not a dog"),
        "3": "dog",
        "4": "<think> dog …",
        "5": tagged("dog barking"),
        "6": tagged("the answer is (a) dog"),
    }
    for name in texts:
        make.row(name, task="odd" if int(name) % 2 else "even")
    results = make.evaluate(base=Model(texts))
    questions = read_validation(make.config.data)["mini"].questions
    accuracy, doubles = Accuracy(), World()

    async def generate(group_id, prepared, sampling):
        text = texts[prepared.question.id]
        reason = "length" if text.endswith("…") else "stop"
        completion = Completion((1,) * len(text.split()), (), text, reason)
        return RolloutGroup(group_id, prepared.question, (completion,))

    async def score(group):
        rewards = tuple(accuracy(group.question, group.completions))
        return ScoredGroup(group, rewards, {"accuracy": rewards})

    doubles.generate, doubles.score = generate, score
    skips = SkipList(tmp_path / "skipped.jsonl", 0.0, 1)
    validated = await evaluate(questions, doubles, doubles, doubles, GREEDILY, skips)
    found = results.figures["base"]["mini"]
    assert validated.score == results.accuracy("base", "mini") == 2 / 6
    by_kind = {kind: measures["greedy"].value for kind, measures in found.rules["accuracy"].groups["kind"].items()}
    assert validated.score_by_kind == by_kind
    assert validated.truncated_share == found.cut_off_share
    assert validated.response_tokens_mean == found.response_tokens_mean


def test_hostile_text_of_a_model_reaches_the_files_as_it_is(make):
    make.row("1", task="<script>")
    text = tagged("<|im_end|>| \ud800 [x](http://x) " + "dog " * 200_000)
    make.evaluate(base=Model({"1": text}))
    (row,) = pq.read_table(make.run / "base/mini/answers.parquet").to_pylist()
    assert row["response"] == text.encode("utf-8", "backslashreplace").decode()
    assert "<script>" not in (make.run / "table.md").read_text()
