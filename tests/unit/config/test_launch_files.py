"""Text of a launch file is taken as it is written, and what is no launch file is refused with its line."""

import os

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.written import config_to_yaml
from ssr1_rl.config.yaml_source import MAX_FILE_BYTES
from ssr1_rl.config.yaml_text import read_plain, write
from ssr1_rl.errors import ConfigError

NAMES = [
    "3.10",
    "010",
    "no",
    "Off",
    "12:30:45",
    "1e3",
    "2024-01-01",
    "0x1F",
    "1_000",
    "1.0",
    "true",
    ".inf",
    "=",
    "é 中",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_taken_as_it_is_written(load, name):
    start = f"run: {{name: {name}, device: cpu}}\nmodel: {{path: {name}}}\ndata: {{train: {{path: q}}}}\n"
    config = load(f"rewards: [{{name: {name}, path: 'a.py:f'}}]\n", start=start)
    assert (config.run.name, config.run.dir, config.model.path) == (name, f"runs/{name}", name)
    assert config.rewards[0].name == name
    assert load("", f"run.name={name}").run.name == name


def test_names_of_splits_and_options_are_text_as_written(load):
    config = load("", "data.validation={010: {path: a}, no: {path: b}, 2024-01-01: {path: c}, 1_0: {path: d}}")
    assert list(config.data.validation) == ["010", "no", "2024-01-01", "1_0"]
    assert load(
        "model: {path: m, lora: {rank: 1, target_modules: [010, no, q]}}\n",
        start=("run: {name: x}\ndata: {train: {path: q}}\n"),
    ).model.lora.target_modules == ["010", "no", "q"]


def test_a_free_value_has_the_type_that_it_looks_like(load):
    text = (
        "{a: 1e-6, b: 0x1F, c: 1_000, d: no, e: 010, f: 12:30:45, g: 2024-01-01, h: '1', i: null, j: 1.5, k: .5, l: -2}"
    )
    options = load(f"rewards: [{{path: 'a.py:f', options: {text}}}]\n").rewards[0].options
    expected = {"a": 1e-6, "b": 31, "c": 1000, "d": False, "e": "010", "f": "12:30:45", "g": "2024-01-01", "h": "1"}
    assert options == expected | {"i": None, "j": 1.5, "k": 0.5, "l": -2}
    assert [type(value) for value in options.values()][:4] == [float, int, int, bool]


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", 1000), ("3.0", 3), ("1_000", 1000), ("010", 10), ("0x10", 16), ("'7'", 7), ("+7", 7)]
)
def test_a_whole_number_may_be_written_in_these_ways(load, text, value):
    found = load(f"checkpoint: {{every: {text}}}\n").checkpoint.every
    assert (found, type(found)) == (value, int)
    assert load("", f"checkpoint.every={text}").checkpoint.every == value


@pytest.mark.parametrize("text", ["3.5", "1e-3", "12:30", "true", "x", "'3 # c'", "[3]", "{}", "1__0x", "1" * 5000])
def test_what_is_no_whole_number_is_refused(load, text):
    with pytest.raises(ConfigError, match=r"launch\.yaml:4: checkpoint\.every must be (a whole|at most)"):
        load(f"checkpoint: {{every: {text}}}\n")


def test_numbers_may_be_written_with_an_exponent(load):
    assert load("learner: {learning_rate: 1e-6}\n").learner.learning_rate == 1e-6
    assert load("", "learner.learning_rate=1E-6").learner.learning_rate == 1e-6


@pytest.mark.parametrize("where", ["run.name", "run.dir", "model.path", "data.train.path", "run.resume"])
@pytest.mark.parametrize(
    ("value", "problem"), [('""', "must not be empty"), ('" "', "must not be empty"), (r'"a\0b"', "must not hold")]
)
def test_a_name_or_a_path_is_not_empty(load, where, value, problem):
    section, name = where.rsplit(".", 1)
    with pytest.raises(ConfigError, match=rf"{where} {problem}"):
        load("", f"{section}={{{name}: {value}}}")


@pytest.mark.parametrize("value", ["", "null", "~"])
def test_no_value_is_no_text(load, value):
    start = f"run:\n  name: {value}\nmodel: {{path: m}}\ndata: {{train: {{path: q}}}}\n"
    with pytest.raises(ConfigError, match=r'launch\.yaml:2: run\.name must be text, got nothing .*write "" for empty'):
        load(start=start)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            b"model: {path: {{ model }}/x}\n", r":1: not valid YAML: .*templates .* are not filled in", id="jinja"
        ),
        pytest.param(
            b"model:\n  path: {{ model }}\n", r":2: a name must be text; write values that begin", id="jinja alone"
        ),
        pytest.param(b"5\n", r":1: must hold sections such as `run:` and `model:`, got 5", id="number"),
        pytest.param(b"just words\n", r":1: must hold sections .*, got 'just words'", id="words"),
        pytest.param(b"- a\n- b\n", r":1: must hold sections .*, got a list of 2", id="list"),
        pytest.param(b"", r": run\.name is required and not set", id="empty"),
        pytest.param(b"# only\n\n", r": run\.name is required and not set", id="comments"),
        pytest.param(b"run:\n  name: caf\xe9\n", r":2: byte 0xe9 is not UTF-8; save the file as UTF-8", id="latin-1"),
        pytest.param("run:\n  name: x\n".encode("utf-16"), r":1: holds NUL bytes, as UTF-16", id="UTF-16"),
        pytest.param("run:\n".encode("utf-16-be"), r":1: holds NUL bytes", id="UTF-16 without a mark"),
        pytest.param("run:\n".encode("utf-32"), r":1: holds NUL bytes", id="UTF-32"),
        pytest.param(b"run:\n  name: a\x00b\n", r":2: holds NUL bytes", id="NUL"),
        pytest.param(b"run:\n  name: a\x07b\n", r":2: character #x0007 is not allowed", id="control character"),
        pytest.param(b"run:\n\tname: x\n", r":2: not valid YAML: .*; indent with spaces, not tabs", id="tab"),
        pytest.param(b"run: {name: x\n", r":2: not valid YAML: .*expected ',' or '}'", id="open bracket"),
        pytest.param(
            b"run: {name: x}\n---\nrun: {name: y}\n", r":2: not valid YAML: .*single document", id="two documents"
        ),
        pytest.param(
            b"run:\n  name: a\n  dir: b\n  name: c\n", r":4: run\.name is set twice \(first in line 2\)", id="twice"
        ),
        pytest.param(
            b"run: !!python/object:os.system {}\n", r":1: run has the YAML tag !!python/object:os\.system", id="tag"
        ),
        pytest.param(b"run: {name: !secret x}\n", r":1: run\.name has the YAML tag !secret", id="own tag"),
        pytest.param(b"run: !!set {name}\n", r":1: run has the YAML tag !!set", id="set"),
        pytest.param(b"run: &a {name: *a}\n", r":1: run\.name is an alias .* contains it", id="alias of itself"),
        pytest.param(b"run: &a {<<: *a}\n", r":1: run merges itself", id="merges itself"),
        pytest.param(b"run: {<<: 5}\n", r":1: << merges only", id="merges a number"),
        pytest.param(b"run: *nowhere\n", r":1: not valid YAML: found undefined alias", id="unknown alias"),
        pytest.param(b"run: {[a]: 1}\n", r":1: a name must be text", id="list as a name"),
        pytest.param(b"run: " + b"[" * 500 + b"]" * 500, r": brackets are nested too deeply", id="deep"),
        pytest.param(b"run: " + b"[" * 40 + b"]" * 40, r":1: run.* is nested more than 30 deep", id="less deep"),
        pytest.param(b"#" * (MAX_FILE_BYTES + 1), r" is larger than 1 MiB, so it is not a launch file", id="large"),
        pytest.param(
            b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(
                b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (n + 1, n + 1, *[n] * 9) for n in range(97, 106)
            ),
            r":\d+: the file stands for more than 100,000 values",
            id="a billion laughs",
        ),
    ],
)
def test_what_is_no_launch_file_is_refused_with_its_line(load, content, message):
    with pytest.raises(ConfigError, match=rf"launch\.yaml{message}") as caught:
        load(b"", start=content)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_byte_order_mark_is_read(load):
    assert (
        load(b"", start=b"\xef\xbb\xbfrun: {name: x}\r\nmodel: {path: m}\r\ndata: {train: {path: q}}\r\n").run.name
        == "x"
    )


def test_a_path_that_is_no_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist \(looked for in "):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"is a folder; give the file in it"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match=r"standard input cannot be read"):
        load_config("-")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match=r"link\.yaml does not exist"):
        load_config(tmp_path / "link.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.yaml").touch(mode=0)
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read: Permission denied"):
        load_config(tmp_path / "a.yaml")


def test_a_misspelt_required_setting_gets_its_right_name(load):
    with pytest.raises(ConfigError, match=r"launch\.yaml:2: unknown setting model\.pth; did you mean model\.path\?"):
        load(start="run: {name: x}\nmodel: {pth: m}\ndata: {train: {path: q}}\n")
    with pytest.raises(ConfigError, match=r"launch\.yaml:1: unknown setting run\.nme; did you mean run\.name\?"):
        load(start="run: {nme: x}\n")


@pytest.mark.parametrize(
    "text",
    [
        "grpo:\n",
        "grpo: ~\n",
        "grpo:\n  # group_size: 4\n",
        "rewards:\n",
        "rollout: {engine_args: }\n",
        "learner: {deepspeed: null}\n",
    ],
)
def test_a_section_whose_lines_are_commented_out_is_its_defaults(load, text):
    assert load(text) == load()
    assert load(text, "grpo.num_steps=3").grpo.num_steps == 3


def test_a_split_whose_lines_are_commented_out_lacks_its_path(load):
    with pytest.raises(ConfigError, match=r"data\.validation\.v\.path is required and not set"):
        load(start="run: {name: x}\nmodel: {path: m}\ndata: {train: {path: q}, validation: {v: }}\n")


def test_anchors_and_merges_are_filled_in(load):
    text = """
    run: {name: x}
    model: {path: m}
    data:
      train: &split {format: jsonl, path: q.jsonl, max_questions: 3}
      validation:
        a: {<<: *split, path: a.jsonl}
        b: *split
        c: {path: c.jsonl, <<: [{max_questions: 9}, *split]}
    """
    splits = load(start=text.replace("\n    ", "\n")).data.validation
    assert [(s.format, s.path, s.max_questions) for s in splits.values()] == [
        ("jsonl", "a.jsonl", 3),
        ("jsonl", "q.jsonl", 3),
        ("jsonl", "c.jsonl", 9),
    ]


FREE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(FREE)
@settings(max_examples=300)
def test_what_is_written_reads_back_the_same(value):
    found = read_plain(write({"x": value}))
    assert found == {"x": value}
    assert repr(found) == repr({"x": value}), "types too"


@given(st.dictionaries(st.text(), FREE, max_size=3), st.text())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_settings_survive_config_yaml(load, tmp_path, options, prompt):
    config = load()
    config.rewards[0].options = options
    config.data.system_prompt = prompt
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    try:
        assert load_config(tmp_path / "config.yaml") == config
    except ConfigError as error:  # only what no setting may hold
        assert "is required and not set" in str(error), error
        assert "???" in yaml.safe_dump([options, prompt])
