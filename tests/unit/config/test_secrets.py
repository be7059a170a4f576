"""What came from the environment is used with its value, and shown and saved as it was written."""

import copy
import pickle
import stat
from pathlib import Path

import pytest

from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.environment import FromEnvironment, plain, without_values
from ssr1_rl.config.load import read_run_and_model
from ssr1_rl.config.written import HIDDEN, config_to_yaml, literal_secrets, shown_settings, shown_yaml
from ssr1_rl.errors import ConfigError
from ssr1_rl.files import SetAside
from ssr1_rl.store.folder import changed_settings, write_config

SECRET = "sk-very-secret-value"
LAUNCH = """
run: {name: x, device: cpu, dir: RUN}
model: {path: "${oc.env:MODEL,m}"}
data: {train: {path: q.json}, system_prompt: "Say ${oc.env:JUDGE_KEY} loudly"}
checkpoint: {every: "${oc.env:EVERY,7}"}
rewards:
  - name: judge
    path: judge.py:judge
    options:
      api_key: ${oc.env:JUDGE_KEY}
      headers: [{auth: "Bearer ${oc.env:JUDGE_KEY}"}, "${oc.env:REGION,eu-${oc.env:JUDGE_KEY}}"]
      again: ${rewards[0].options.api_key}
      keys: ${oc.decode:${oc.env:KEYS}}
    runtime_env: {env_vars: {TOKEN: "${oc.env:JUDGE_KEY}"}}
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setenv("KEYS", f"[{SECRET}, {{k: {SECRET}}}, 1]")
    path = tmp_path / "launch.yaml"
    path.write_text(LAUNCH.replace("RUN", str(tmp_path / "run")))
    return path


def test_components_get_the_values(launch):
    config = load_config(launch)
    reward = config.rewards[0]
    assert reward.options["api_key"] == SECRET
    assert f"Bearer {reward.options['api_key']}" == reward.options["headers"][0]["auth"]
    given = plain(reward.options)
    assert given["headers"] == [{"auth": f"Bearer {SECRET}"}, f"eu-{SECRET}"]
    assert given["keys"] == [SECRET, {"k": SECRET}, 1]
    assert {type(text) for text in (given["api_key"], given["again"], given["keys"][0])} == {str}
    assert config.data.system_prompt == f"Say {SECRET} loudly"


@pytest.mark.parametrize("written", [config_to_yaml, shown_yaml, repr, lambda config: repr(shown_settings(config))])
def test_no_value_is_shown_or_saved(launch, written):
    config = load_config(launch, ["rewards[0].options.more=a ${oc.env:JUDGE_KEY} b"])
    for text in (written(config), written(copy.deepcopy(config)), written(pickle.loads(pickle.dumps(config)))):
        assert SECRET not in text
        assert "a ${oc.env:JUDGE_KEY} b" in text


def test_saved_settings_get_the_values_again(launch, tmp_path, monkeypatch):
    config = load_config(launch)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    monkeypatch.chdir("/")
    assert load_config(tmp_path / "config.yaml") == config
    assert config_to_yaml(load_config(tmp_path / "config.yaml")) == config_to_yaml(config)
    monkeypatch.setenv("JUDGE_KEY", "another-secret")
    assert load_config(tmp_path / "config.yaml").rewards[0].options["api_key"] == "another-secret"


def test_what_a_run_is_known_by_is_saved_with_its_value(launch, monkeypatch):
    monkeypatch.setenv("MODEL", "my-model")
    monkeypatch.setenv("EVERY", "9")
    saved = config_to_yaml(load_config(launch, ["run.name=${oc.env:MODEL}", "run.dir=runs/${run.name}"]))
    for line in ("name: my-model", "dir: runs/my-model", "path: my-model", "every: 9"):
        assert line in saved


def write(config):
    """Writes config.yaml; returns the changes before."""
    changes = changed_settings(config)
    write_config(config, SetAside(Path(config.run.dir), 0))
    return [change.removeprefix("changed setting: ") for change in changes]


def test_settings_files_are_for_their_owner_only(launch, tmp_path):
    (tmp_path / "run").mkdir()
    write(load_config(launch))
    path = tmp_path / "run" / "config.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    write(load_config(launch))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["config.yaml"]


def test_changed_settings_show_no_value(launch, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    write(load_config(launch))
    monkeypatch.setenv("JUDGE_KEY", "another-secret")
    assert write(load_config(launch)) == [], "what was written is the same"
    changed = write(load_config(launch, ["rewards[0].options.api_key=literal-key", "data.system_prompt=hello"]))
    assert changed == [
        f"data.system_prompt: 'Say ${{oc.env:JUDGE_KEY}} loudly' before, {HIDDEN} now",
        f"rewards[0].options.again: '${{rewards[0].options.api_key}}' before, {HIDDEN} now",
        f"rewards[0].options.api_key: '${{oc.env:JUDGE_KEY}}' before, {HIDDEN} now",
    ]
    [line] = write(load_config(launch, ["rewards[0].options.api_key=other-key", "data.system_prompt=hello"]))[1:]
    assert line == f"rewards[0].options.api_key: {HIDDEN} before, {HIDDEN} now"


@pytest.mark.parametrize(
    "override",
    [
        "grpo.num_steps=${oc.env:JUDGE_KEY}",
        "grpo.validate_first=${oc.env:JUDGE_KEY}",
        "grpo.ratio=${oc.env:JUDGE_KEY}",
        "rollout=${oc.env:JUDGE_KEY}",
        "rollout.engine_args=${oc.env:JUDGE_KEY}",
        "rewards=${oc.env:JUDGE_KEY}",
        "rewards=[{name: '${oc.env:JUDGE_KEY}'}]",
        "rollout.engine_args.seed=${oc.env:JUDGE_KEY}",
        "learner.deepspeed.optimizer=${oc.env:JUDGE_KEY}",
        "learner.deepspeed.zero_optimization=${oc.env:JUDGE_KEY}",
        "rollout.engine_args.seed=${oc.decode:${oc.env:BROKEN}}",
        "rollout.engine_args.seed=${oc.env:JUDGE_KEY}${nowhere}",
        "rollout.engine_args.seed=${oc.select:${oc.env:JUDGE_KEY}",
        "data.train.path=${oc.env:EMPTY}",
    ],
)
def test_errors_show_no_value(launch, override, monkeypatch):
    monkeypatch.setenv("BROKEN", f"[{SECRET}")
    monkeypatch.setenv("EMPTY", "")
    with pytest.raises(ConfigError) as caught:
        load_config(launch, [override])
    chain, error = [], caught.value
    while error is not None:
        chain.append(str(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert not any(SECRET in text for text in chain), "neither the message nor a cause that a traceback prints"
    assert override.split("=")[0].split(".")[0] in chain[0]


def test_a_variable_that_is_not_set_is_named_with_its_setting(launch, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY")
    message = (
        r"launch\.yaml:4: data\.system_prompt needs the environment variable JUDGE_KEY, which is not set: set it, or"
    )
    with pytest.raises(ConfigError, match=message):
        load_config(launch)


def test_an_export_needs_only_the_variables_that_it_uses(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("MODEL", "my-model")
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(load_config(launch)) + "new_section: {of: another version}\n")
    for name in ("JUDGE_KEY", "KEYS", "MODEL"):
        monkeypatch.delenv(name)
    run, model = read_run_and_model(path)
    assert (run.dir, model.path, model.dtype) == (str(tmp_path / "run"), "my-model", "bfloat16")
    path.write_text("run: {name: x}\nmodel: {path: '${oc.env:MODEL}'}\n")
    with pytest.raises(ConfigError, match=r"config\.yaml:2: model\.path needs the environment variable MODEL"):
        read_run_and_model(path)


@pytest.mark.parametrize(
    "name", ["api_key", "apikey", "OPENAI_API_KEY", "hf_token", "password", "client_secret", "key"]
)
def test_a_literal_secret_is_not_shown_but_saved(launch, name):
    config = load_config(launch, [f"rewards[0].options={{{name}: {SECRET}, max_tokens: 5, pad_token: <pad>}}"])
    assert literal_secrets(config) == [f"rewards[0].options.{name}"]
    assert SECRET not in shown_yaml(config)
    assert "max_tokens: 5" in shown_yaml(config)
    assert "pad_token: <pad>" in shown_yaml(config)
    assert f"{name}: {SECRET}" in config_to_yaml(config), "a run can be started from it"


def test_the_words_of_other_code_are_cleaned_of_values():
    settings = {"a": [FromEnvironment(SECRET, "${oc.env:A}")], "b": FromEnvironment("eu", "${oc.env:B}"), "c": "plain"}
    text = without_values(f"401: bad key {SECRET} for eu, plain", settings)
    assert text == "401: bad key ${oc.env:A} for eu, plain"


def test_a_literal_dollar_brace_survives(launch, tmp_path):
    config = load_config(launch, [r"data.instruction=\${x} and $\{y}", r"rewards[0].options.t=\\\${z}"])
    assert config.data.instruction == r"${x} and $\{y}"
    assert config.rewards[0].options["t"] == r"\${z}"
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config
