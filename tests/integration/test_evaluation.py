"""Two tiny models answer the synthetic world's test split with real engines, are scored and compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ssr1_rl import cli
from ssr1_rl.checks.eval_preflight import read_validation
from ssr1_rl.checks.eval_rules import load_eval
from ssr1_rl.config.schema import Config
from ssr1_rl.data.splits import Split
from ssr1_rl.evaluation.evaluate import evaluate_models
from ssr1_rl.evaluation.results import Results
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.types import Completion

NUM_QUESTIONS, NUM_SAMPLES = 24, 2


@dataclass
class Evaluated:
    results: Results
    models: dict[str, str]
    splits: dict[str, Split]
    config: Config
    run: Path
    overrides: list[str]


@pytest.fixture(scope="module")
def evaluated(soundworld, random_audio_model, ray_cluster, tmp_path_factory, monkeypatch_module) -> Evaluated:
    monkeypatch_module.setenv("SSR1_RL_SOUNDWORLD", str(soundworld))
    run = tmp_path_factory.mktemp("evaluation")
    overrides = [
        f"run.dir={run}",
        f"evaluation.models={{random: {random_audio_model}}}",
        "~evaluation.models.grpo",
        f"evaluation.num_samples={NUM_SAMPLES}",
        "evaluation.engines.batch_size=16",
        "~data.validation.unseen_scenes",
        "~data.validation.unseen_questions",
    ]
    config = load_eval("launch/eval_local.yaml", overrides)
    models, splits = config.evaluation.models, read_validation(config.data)
    return Evaluated(evaluate_models(models, splits, config, run), models, splits, config, run, overrides)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_every_response_is_there_once_and_scored_as_the_reward_scores_it(evaluated):
    questions = {question.id: question for question in evaluated.splits["test"].questions}
    for model in evaluated.models:
        rows = pq.read_table(evaluated.run / model / "test" / "answers.parquet").to_pylist()
        keys = [(row["question_id"], row["sample"]) for row in rows]
        assert sorted(keys) == sorted((id, sample) for id in questions for sample in range(-1, NUM_SAMPLES))
        assert all(
            row["num_tokens"] and row["finish_reason"] in ("stop", "length") and not row["error"] for row in rows
        )
        greedy = [row for row in rows if row["sample"] == -1]
        rewards = [
            Accuracy()(questions[row["question_id"]], [Completion((), (), row["response"], row["finish_reason"])])[0]
            for row in greedy
        ]
        assert [row["is_right/accuracy"] for row in greedy] == [bool(reward) for reward in rewards]
        assert evaluated.results.accuracy(model, "test") == sum(rewards) / NUM_QUESTIONS


def test_a_response_is_cut_only_at_the_limit_of_tokens(evaluated):
    limit = evaluated.config.evaluation.max_response_tokens
    for model in evaluated.models:
        rows = pq.read_table(evaluated.run / model / "test" / "answers.parquet").to_pylist()
        assert {row["num_tokens"] for row in rows if row["finish_reason"] == "length"} <= {limit}
        assert all(row["num_tokens"] <= limit for row in rows)


def test_scores_are_made_for_greedy_answers_samples_and_votes_and_for_every_kind(evaluated):
    scores = evaluated.results.figures["sft"]["test"].rules["avqa"]
    assert set(scores.overall) == {"greedy", "pass@1", f"majority@{NUM_SAMPLES}"}
    assert len(scores.groups["kind"]) > 1


def test_the_samples_of_a_question_differ(evaluated):
    rows = pq.read_table(evaluated.run / "random" / "test" / "answers.parquet").to_pylist()
    texts = {(row["question_id"], row["sample"]): row["response"] for row in rows}
    ids = {row["question_id"] for row in rows}
    assert sum(texts[id, 0] != texts[id, 1] for id in ids) > len(ids) / 2


def test_the_results_are_written(evaluated):
    saved = json.loads((evaluated.run / "results.json").read_text())
    assert list(saved["figures"]) == list(evaluated.models)
    (pair,) = evaluated.results.comparisons
    assert (pair.model, pair.other, pair.rule) == ("sft", "random", "avqa")
    assert "| sft |" in (evaluated.run / "table.md").read_text()


def test_a_second_start_asks_nothing_and_gives_the_same_results(evaluated):
    class Nobody:
        def answers(self, rows, to_request):
            raise AssertionError(f"{len(rows)} rows are asked again")

    again = evaluate_models(
        evaluated.models, evaluated.splits, evaluated.config, evaluated.run, backend_of=lambda path: Nobody()
    )
    assert again == evaluated.results


def test_the_command_shows_the_results_of_the_answers_that_are_there(evaluated):
    done = CliRunner().invoke(cli.app, ["eval", "launch/eval_local.yaml", *evaluated.overrides])
    assert done.exit_code == 0, done.output
    assert "72 of 72 rows are answered already" in done.output
    assert "greedy: right answers in %" in done.output and "test: avqa" in done.output
    assert done.output.rstrip().endswith("results.json, table.md, table.csv")
