"""A stage's fingerprint names what changed, and does not change with what has no effect on the output."""

import shutil

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.recipe.fingerprint import ENDS_BYTES, changes, of_model, of_path, of_settings


@pytest.fixture
def config():
    config = Config()
    config.run.name, config.model.path, config.data.train.path = "r", "m", "q.json"
    return config


def test_a_changed_setting_is_named_with_both_values(config):
    before = of_settings(config, "sft")
    config.learner.learning_rate = 0.5
    assert changes(before, of_settings(config, "sft")) == ["learner.learning_rate (1e-06 before, 0.5 now)"]


def test_settings_of_sections_that_the_command_does_not_read_do_not_count(config):
    before = of_settings(config, "distill")
    config.learner.learning_rate, config.sft.num_epochs = 0.5, 7
    assert of_settings(config, "distill") == before


def test_how_fast_and_where_a_stage_runs_does_not_count(config):
    found = {command: of_settings(config, command) for command in ("distill", "sft", "grpo", "eval")}
    config.run.dir, config.run.resume = "moved", "never"
    config.teacher.engines.num_engines, config.teacher.endpoint.max_concurrency = 8, 2
    config.learner.num_workers, config.learner.zero_stage, config.learner.update_timeout_s = 4, 3, 1.0
    config.rollout.num_workers, config.checkpoint.every, config.telemetry.samples = 4, 1, False
    config.rewards[0].num_actors, config.rewards[0].timeout_s = 3, 1.0
    assert {command: of_settings(config, command) for command in found} == found


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("teacher", "temperature", 0.1),
        ("teacher", "model", "other"),
        ("verifier", "threshold", 0.9),
        ("data", "instruction", "x"),
        ("run", "seed", 1),
        ("run", "device", "cpu"),
    ],
)
def test_what_changes_the_output_counts(config, section, name, value):
    before = of_settings(config, "distill")
    setattr(getattr(config, section), name, value)
    assert [line.split(" ")[0] for line in changes(before, of_settings(config, "distill"))] == [f"{section}.{name}"]


def test_engine_arguments_and_fields_of_requests_count(config):
    before = of_settings(config, "distill")
    config.teacher.engines.engine_args = {"quantization": "fp8"}
    with_arguments = of_settings(config, "distill")
    assert changes(before, with_arguments)
    config.teacher.endpoint.request_fields = {"reasoning_effort": "high"}
    assert changes(with_arguments, of_settings(config, "distill"))


def test_a_model_folder_is_known_by_its_content_not_its_times(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3 * ENDS_BYTES))
    before = of_model(str(folder), "student")
    shutil.copytree(folder, tmp_path / "copy")
    assert of_model(str(tmp_path / "copy"), "student") == before
    (folder / "model.safetensors").write_bytes(bytes(3 * ENDS_BYTES - 1) + b"x")
    assert of_model(str(folder), "student") != before
    assert of_model("Qwen/Qwen2-Audio-7B-Instruct", "student") == {
        "model of student": "hub: Qwen/Qwen2-Audio-7B-Instruct"
    }


def test_a_missing_file_is_no_error_but_a_change(tmp_path):
    assert of_path(tmp_path / "none") == "missing"
    (tmp_path / "none").write_text("now")
    assert of_path(tmp_path / "none") != "missing"
