"""Settings of the teacher that contradict each other are refused, with the place, the value and the fix."""

import pytest

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.errors import ConfigError


@pytest.fixture
def launch(tmp_path):
    path = tmp_path / "distill.yaml"
    path.write_text(
        "run: {name: test}\ndata: {train: {path: train.json}}\nteacher:\n  model: a/b\n  temperature: 0.0\n"
    )
    return path


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"distill\.yaml:5: teacher\.temperature=0 writes the same chain teacher\.num_chains=4 times: set"),
        (["teacher.model=''", "teacher.num_chains=1"], r"^override .*: teacher\.model is empty: give the vision"),
        (
            ["teacher.keep=majority", "teacher.num_chains=2", "teacher.temperature=1"],
            r"teacher\.keep=majority needs at least 3 chains to vote, got teacher\.num_chains=2",
        ),
        (
            ["teacher.forbidden_words=[a,' ']", "teacher.num_chains=1"],
            r"teacher\.forbidden_words\[1\] is empty; give a word",
        ),
        (
            ["teacher.engines.engine_args={max_model_len: 9}", "teacher.num_chains=1"],
            r"teacher\.engines\.engine_args\.max_model_len is set by the system itself",
        ),
        (["teacher.kep=all"], "unknown setting teacher.kep; did you mean .*keep"),
        (
            ["data.chat_template_kwargs={messages: 1}", "teacher.num_chains=1"],
            "chat_template_kwargs.messages cannot be set",
        ),
    ],
)
def test_what_is_refused(launch, overrides, message):
    with pytest.raises(ConfigError, match=message):
        load_distill(launch, overrides)


@pytest.mark.parametrize("stage", ["verify", "calibrate"])
@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ("{logprobs_mode: raw_logits}", "logprobs_mode is set by the system itself"),
        ("{enforce_eagr: true}", r"enforce_eagr is not an engine argument of vLLM: did you mean enforce_eager\?"),
    ],
)
def test_the_verifier_s_engines_are_checked_too(launch, stage, engine_args, message):
    given = [f"verifier.engines.engine_args={engine_args}", "verifier.model=a/b", "verifier.labels=l.jsonl"]
    with pytest.raises(ConfigError, match=rf"verifier\.engines\.engine_args\.{message}"):
        load_distill(launch, given, stage)


def test_a_server_needs_no_engines(launch):
    load_distill(
        launch, ["teacher.num_chains=1", "teacher.engines.engine_args={seed: 1}", "teacher.endpoint.url=http://h"]
    )


def test_other_stages_do_without_a_teacher(launch):
    config = load_distill(launch, ["teacher.model=''", "verifier.method=none"], "verify")
    assert config.run.name == "test"


def test_a_model_of_a_student_is_not_needed(launch):
    assert load_distill(launch, ["teacher.num_chains=1"]).teacher.model == "a/b"
