"""Errors that would stop a run after its actors have started are found before, in a dry run and in a real run."""

import dataclasses
import json
import shutil

import pytest

from ssr1_rl.checks.engine_options import OWNED, refuse_owned, vllm_engine_args
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.run import run_grpo


@pytest.fixture
def config(random_text_model, tmp_path):
    config = Config()
    config.run.name, config.run.dir, config.run.device = "x", str(tmp_path / "run"), "cpu"
    config.model.path, config.data.train.path = str(random_text_model), str(tmp_path / "q.json")
    config.data.train.format = "jsonl"
    (tmp_path / "q.json").write_text('{"id": 1, "question": "How many beeps?", "answer": "one"}')
    return config


def with_model(config, tmp_path, **changes):
    """The configuration, with changes to the model's config.json."""
    folder = tmp_path / "model"
    shutil.copytree(config.model.path, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))
    config.model.path = str(folder)
    return config


def test_a_whole_run_passes(config):
    checked = preflight(config)
    assert checked.splits.train.questions
    assert checked.examples[0].num_tokens > 0


def test_a_real_run_makes_the_same_checks(config, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_args, **_kwargs: pytest.fail("something was started"))
    config.data.validation = {"v": DatasetConfig(path="nowhere.json")}
    with pytest.raises(ConfigError, match=r"data\.validation\.v\.path nowhere\.json is not a file \(looked for in /"):
        run_grpo(config)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("train", "path", "nowhere.json", r"data\.train\.path nowhere\.json is not a file"),
        ("train", "audio_dir", "nowhere", r"data\.train\.audio_dir nowhere is not a folder"),
    ],
)
def test_missing_data_is_named(config, section, field, value, message):
    setattr(getattr(config.data, section), field, value)
    with pytest.raises(ConfigError, match=message):
        preflight(config)


def test_a_model_the_learner_cannot_train_is_refused(config, tmp_path):
    config = with_model(config, tmp_path, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    with pytest.raises(ValueError, match=r"model\.path names a gpt2 model without a linear lm_head over a backbone"):
        preflight(config)


def test_sliding_windows_need_padded_rows(config, tmp_path):
    config = with_model(
        config, tmp_path, use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=None
    )
    with pytest.raises(ValueError, match=r"sliding.*learner\.prefix_packing"):
        preflight(config)
    config.learner.prefix_packing = False
    preflight(config)


@pytest.mark.parametrize(("path", "message"), [("", "holds no config"), ("nowhere", r"model\.path .* does not exist")])
def test_a_wrong_model_folder_is_named(config, tmp_path, path, message):
    config.model.path = str(tmp_path / path)
    with pytest.raises(ValueError, match=message):
        preflight(config)


def test_a_mistyped_folder_is_no_name_on_the_hub(config, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    config.model.path = "models/stf"
    with pytest.raises(ValueError, match=r"model\.path models/stf does not exist"):
        preflight(config)
    config.model.path = "Qwen/Qwen2-Audio-7B-Instruct"
    preflight(config)


def test_a_quantized_model_is_refused(config, tmp_path):
    config = with_model(config, tmp_path, quantization_config={"quant_method": "awq", "bits": 4})
    with pytest.raises(ValueError, match=r"model\.path .* is a quantized model.*give the model that it was made from"):
        preflight(config)


REWARDS = """
import os
from statistics import mean
raise SystemExit("the user's code ran")
LONGEST = 40
def brevity(question, completions): return [0.0] * len(completions)
if os.name == "posix":
    alias = other = brevity
"""


@pytest.mark.parametrize("name", ["brevity", "alias", "other", "mean"])
def test_a_reward_function_is_found_without_running_its_file(config, tmp_path, name):
    (tmp_path / "mine.py").write_text(REWARDS)
    config.rewards = [RewardConfig(path=f"{tmp_path}/mine.py:{name}")]
    preflight(config)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"path": "nowhere.py:f"}, r"rewards\[0\]\.path 'nowhere\.py:f': there is no file 'nowhere\.py'"),
        (
            {"path": "mine.py:brevty"},
            r"rewards\[0\]\.path 'mine\.py:brevty': mine\.py has no 'brevty'; did you mean 'brev",
        ),
        ({"path": "mine.py:LONGEST"}, r"LONGEST is a constant there; name a function"),
        ({"path": "no_such_package.rewards:f"}, r"there is no package 'no_such_package' here; install it"),
        ({"name": "accuracy", "options": {"match": "exact"}}, r"rewards\[0\]\.options .*match"),
        ({"name": "accuracy", "options": {"mach": "mmau"}}, r"options has no 'mach'; did you mean 'match'\?"),
        ({"name": "format", "options": {"credit": 1}}, r"options has no 'credit'"),
    ],
)
def test_a_wrong_reward_is_refused(config, tmp_path, monkeypatch, reward, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARDS)
    config.rewards = [RewardConfig(**reward)]
    with pytest.raises(ConfigError, match=message):
        preflight(config)


def test_a_package_of_a_runtime_env_need_not_be_here(config):
    config.rewards = [RewardConfig(path="no_such_package.rewards:f", runtime_env={"pip": ["no_such_package"]})]
    preflight(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "max_num_batched_token",
            r"rollout\.engine_args\.max_num_batched_token is not .*did you mean max_num_batched_tokens\?",
        ),
        ("zzz", r"rollout\.engine_args\.zzz is not an engine argument of vLLM: `vllm serve --help` lists them"),
    ],
)
def test_an_unknown_engine_argument_is_refused(config, name, message):
    config.rollout.engine_args = {"block_size": 16, name: 1}
    with pytest.raises(ConfigError, match=message):
        preflight(config)


@pytest.mark.parametrize("name", OWNED)
def test_engine_arguments_of_the_system_are_refused(name):
    config = Config()
    config.rollout.engine_args = {name: "mine"}
    with pytest.raises(
        ConfigError, match=rf"rollout\.engine_args\.{name} is set by the system itself: .*got 'mine'"
    ) as caught:
        refuse_owned(config.rollout)
    used = [
        word.rstrip(",") for word in str(caught.value).split()[1:] if "." in word and word.split(".")[0] in vars(config)
    ]
    assert used or "leave it out" in str(caught.value)
    for section, _, field in (word.partition(".") for word in used):
        assert hasattr(getattr(config, section), field)


def test_engine_arguments_are_those_of_the_installed_vllm():
    from vllm.engine.arg_utils import AsyncEngineArgs

    known = vllm_engine_args()
    assert known == {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert known >= OWNED.keys()
