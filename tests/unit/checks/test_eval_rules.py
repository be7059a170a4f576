"""The settings of an evaluation are checked before anything starts; a dry run shows what would be asked."""

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from ssr1_rl import cli
from ssr1_rl.checks.eval_preflight import preflight_eval
from ssr1_rl.checks.eval_rules import load_eval
from ssr1_rl.errors import ConfigError, MissingFile, UserError
from ssr1_rl.types import SAMPLE_RATE

START = "run: {name: x, device: cpu}\n"
MODELS = "evaluation: {models: {base: org/model}}\n"
SPLITS = "data: {validation: {mini: {path: q.json}}}\n"


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        (tmp_path / "eval.yaml").write_text(START + text)
        return load_eval(tmp_path / "eval.yaml", overrides)

    return load


def test_neither_a_policy_nor_training_data_is_needed(load):
    config = load(MODELS + SPLITS)
    assert config.evaluation.models == {"base": "org/model"}


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (SPLITS, [], r"evaluation\.models must name at least one model, got \{\}; for example evaluation\.models="),
        (MODELS, [], r"data\.validation must name at least one split, got \{\}"),
        (MODELS + SPLITS, ["evaluation.models={../up: m}"], r"evaluation\.models\.\.\./up: .* only letters, digits"),
        (MODELS + SPLITS, ["evaluation.models={a/b: m}"], r"the name 'a/b' cannot be that of a folder"),
        (MODELS + SPLITS, ["evaluation.models={.lock: m}"], r"the name '\.lock' cannot be"),
        (MODELS + SPLITS, ["evaluation.models={results.json: m}"], r"'results\.json' .* is the name of a file in it"),
        (
            MODELS + SPLITS,
            ["data.validation={answers: {path: q}}"],
            r"data\.validation\.answers: .*'answers' cannot be",
        ),
        (MODELS + SPLITS, ["evaluation.num_sample=3"], r"did you mean evaluation\.num_samples\?"),
        (
            MODELS + SPLITS,
            ["evaluation.engines.engine_args={dtype: half}"],
            r"evaluation\.engines\.engine_args\.dtype is set by the system itself: use evaluation\.dtype instead, got",
        ),
        (
            MODELS + SPLITS,
            ["evaluation.engines.engine_args={enforce_eagr: true}"],
            r"engine_args\.enforce_eagr is not an engine argument of vLLM: did you mean enforce_eager\?",
        ),
        (
            MODELS + SPLITS,
            ["evaluation.engines.engine_args={enable_chunked_prefill: true}"],
            r"enable_chunked_prefill=true does not work on CPUs",
        ),
        (MODELS + SPLITS, ["evaluation.confidence=1"], r"evaluation\.confidence must be less than 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(load, text, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load(text, *overrides)


def test_an_error_says_where_the_setting_is(load):
    with pytest.raises(ConfigError, match=r"^.*eval\.yaml:2: evaluation\.models must name"):
        load("evaluation: {models: {}}\n" + SPLITS)


@pytest.fixture
def file(random_audio_model, tmp_path):
    """A launch file with one model, and one split of two questions, one of them without its clip."""
    rows = [
        {"id": 1, "question": "How many beeps?", "choices": ["one", "two"], "answer": "B", "audio": "a.wav"},
        {"id": 2, "question": "How many beeps?", "choices": ["one", "two"], "answer": "A", "audio": "gone.wav"},
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    soundfile.write(tmp_path / "a.wav", np.zeros(2 * SAMPLE_RATE), SAMPLE_RATE)
    path = tmp_path / "eval.yaml"
    path.write_text(
        f"run: {{name: x, device: cpu, dir: {tmp_path}/run}}\n"
        f"data: {{max_skipped_share: 0.5, validation: {{mini: {{format: jsonl, path: {tmp_path}/q.json}}}}}}\n"
        f"evaluation: {{models: {{tiny: {random_audio_model}, big: Qwen/Qwen2-Audio-7B-Instruct}}, num_samples: 3}}\n"
    )
    return path


def test_a_dry_run_shows_splits_models_and_prompts_and_starts_nothing(file, tmp_path):
    result = CliRunner().invoke(cli.app, ["eval", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "num_samples: 3" in text and "grpo:" not in text
    assert "data.validation.mini │ jsonl │ 1 │ 1 │ 1 (100%) │ 1 .wav │ accuracy" in text
    assert "│ tiny │" in text and "│ 4 │ 1 of 1 CPU │" in text
    assert "How many beeps? (A) one (B) two" in text
    assert "left out: prompts of big, because Qwen/Qwen2-Audio-7B-Instruct is not downloaded yet" in text
    assert text.endswith("nothing was started") and not (tmp_path / "run").exists()


def test_what_is_missing_is_named_with_what_makes_it(file):
    for overrides, message in (
        (
            ["evaluation.models={gone: ./nowhere}"],
            r"evaluation\.models\.gone \./nowhere does not exist.* get it: make it",
        ),
        (
            ["data.validation.mini.path=gone.json"],
            r"data\.validation\.mini\.path gone\.json is not a file .*: make it$",
        ),
    ):
        with pytest.raises(MissingFile, match=message):
            preflight_eval(load_eval(file, [*overrides, "run.setup=make it"]))


def test_a_model_folder_without_a_config_is_refused(file, tmp_path):
    with pytest.raises(MissingFile, match=r"evaluation\.models\.x .* holds no config\.json; give a Hugging Face"):
        preflight_eval(load_eval(file, [f"evaluation.models={{x: {tmp_path}}}"]))


def test_a_clip_that_no_model_can_hear_is_refused(file):
    with pytest.raises(ConfigError, match=r"data\.max_audio_s must be at most 30 with qwen2_audio"):
        preflight_eval(load_eval(file, ["data.max_audio_s=40"]))


def test_too_many_unreadable_rows_are_refused(file):
    with pytest.raises(UserError, match=r"data\.validation\.mini: .*1 of 2 rows cannot be used"):
        preflight_eval(load_eval(file, ["data.max_skipped_share=0"]))
