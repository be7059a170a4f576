"""An override does what it says, or is refused."""

import pytest

from ssr1_rl.errors import ConfigError

SPLITS = (
    "run: {name: x}\nmodel: {path: m}\ndata: {train: {path: q}, validation: {seen: {path: s}, unseen: {path: u}}}\n"
)
MORE = "rollout: {engine_args: {block_size: 16, list: [1, 2]}}\nrewards: [{name: accuracy}, {name: format}]\n"


@pytest.mark.parametrize(
    "text",
    [
        "a # b",
        "Answer: A",
        "- x",
        "[think] first",
        "{json}",
        "*bold*",
        "!x",
        "a=b",
        "100%",
        "@x",
        "'it''s' so",
        '"a" or "b"',
        "`x`",
        "a\nb",
        "é 中 🎧",
        "  x ",
        "|",
        "> y",
        "#",
        "x:",
    ],
)
def test_text_is_taken_as_it_is_typed(load, text):
    assert load("", f"data.instruction={text}").data.instruction == text


@pytest.mark.parametrize("text", ["a # b", "Answer: A", "*bold*", "- x", "no way", "é"])
def test_free_text_is_taken_as_it_is_typed(load, text):
    assert load("", f"rewards.0.options.hint={text}").rewards[0].options == {"hint": text}


@pytest.mark.parametrize(
    ("typed", "text"), [('"x"', "x"), ("'it''s'", "it's"), ('" x "', " x "), (r'"a\nb"', "a\nb"), ("", "")]
)
def test_quotes_around_the_whole_text_are_not_part_of_it(load, typed, text):
    assert load("", f"data.instruction={typed}").data.instruction == text


def test_an_empty_mapping_empties_a_mapping(load):
    assert load(MORE, "data.validation={}", start=SPLITS).data.validation == {}
    assert load(MORE, "rollout.engine_args={}", start=SPLITS).rollout.engine_args == {}
    config = load(MORE, "rollout.engine_args={}", "rollout.engine_args.a=1", start=SPLITS)
    assert config.rollout.engine_args == {"a": 1}
    assert load("rewards: [{name: a, path: 'a.py:f', options: {a: {b: 1}}}]\n", "rewards[0].options.a={}").rewards[
        0
    ].options == {"a": {}}


@pytest.mark.parametrize("drop", ["~data.validation.unseen", "data.validation.unseen=null", "data.validation.unseen=~"])
def test_an_entry_can_be_dropped(load, drop):
    assert list(load("", drop, start=SPLITS).data.validation) == ["seen"]
    assert list(load("", drop, "data.validation.unseen.path=w", start=SPLITS).data.validation) == ["seen", "unseen"]
    with pytest.raises(ConfigError, match=r"override .*: nothing sets data\.validation\.unseen, .*set there: other"):
        load("", "data.validation={}", "data.validation.other.path=w", drop)


def test_what_the_file_sets_can_be_dropped_for_its_default(load):
    text = "grpo: {group_size: 4, preset: dapo, clip_high: 0.5}\n"
    grpo = load(text, "~grpo.group_size", "~grpo.clip_high").grpo
    assert (grpo.group_size, grpo.clip_high) == (8, 0.28), "the default, and the preset's value"
    assert load(text, "~grpo").grpo == load().grpo
    assert load("", "grpo.group_size=4", "~grpo.group_size").grpo.group_size == 8
    assert load(MORE, "~rollout.engine_args.list", start=SPLITS).rollout.engine_args == {"block_size": 16}
    assert [r.name for r in load(MORE, "~rewards", start=SPLITS).rewards] == ["accuracy"]


def test_a_null_in_a_free_mapping_stays(load):
    assert load(MORE, "rollout.engine_args.block_size=null", start=SPLITS).rollout.engine_args["block_size"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rewards[2].weight=1", r"override 'rewards\[2\]\.weight=1': rewards has no entry 2; set the whole list"),
        ("rewards[-1].weight=1", r"where an entry of a list has its index from 0: rewards\[0\]\.weight"),
        ("rewards[x].weight=1", r"where an entry of a list has its index from 0"),
        ("rewards[0.weight=1", r"where an entry of a list has its index from 0"),
        ("rewards={}", r"rewards must be a list"),
        ("rewards=[]", r"rewards must name at least one reward function"),
        ("rewards=null", r"rewards must be a list"),
        ("~rewards[1]", r"an entry of a list cannot be dropped alone; set the whole list: rewards=\[…\]"),
        ("~grpo.group_size", r"nothing sets grpo\.group_size, so nothing is dropped"),
        ("~grpo.group_size=4", r"must be ~section\.setting alone"),
        ("~", r"must look like section\.setting=value"),
        ("rollout.engine_args.list[5]=1", r"rollout\.engine_args\.list has no entry 5"),
        ("grpo.group_size.x=1", r"grpo\.group_size must be a whole number, got \{'x': 1\}"),
        ("grpo={}", r"override 'grpo=\{\}' sets nothing; ~grpo drops what the launch file sets in grpo"),
        ("grpo=null", r"grpo must hold settings .*, got nothing"),
        ("grpo.num_steps =5", r"without spaces around the ="),
        (" grpo.num_steps=5", r"without spaces around the ="),
        ("--grpo.num_steps=5", r"begins with dashes; an override has none: grpo\.num_steps=5"),
        ("=5", r"must look like section\.setting=value"),
        ("=", r"must look like section\.setting=value"),
        ("", r"must look like section\.setting=value"),
        ("grpo.num_steps=3 # c", r"must be a whole number, got '3 # c'"),
        ("grpo.num_steps=", r"must be a whole number, got ''"),
        ("+grpo.num_steps=5", r"unknown setting \+grpo; did you mean grpo\?"),
        ("learner.adam_betas[0]=2", r"learner\.adam_betas\[0\] must be less than 1, got 2"),
        ("rewards=[{name: a, name: b}]", r"override .*: rewards\[0\]\.name is set twice"),
        ("rewards=!!python/name:os.system", r"rewards must be a list"),
        ("rewards=[!!python/name:os.system ]", r"rewards\[0\] has the YAML tag !!python/name:os.system"),
        ("rewards=" + "[" * 3000, r"is not a YAML value"),
    ],
)
def test_an_override_that_cannot_be_done_is_refused(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load(MORE, override, start=SPLITS)


def test_entries_of_lists_are_set_by_their_index(load):
    config = load(
        MORE, "rewards[1].weight=2", "learner.adam_betas[0]=0.8", "rollout.engine_args.list[1]=5", start=SPLITS
    )
    assert config.rewards[1].weight == 2.0
    assert config.learner.adam_betas == (0.8, 0.999)
    assert config.rollout.engine_args["list"] == [1, 5]


def test_the_last_of_two_equal_overrides_wins(load):
    assert load("", "grpo.num_steps=3", "grpo.num_steps=4").grpo.num_steps == 4
    with pytest.raises(ConfigError, match=r"override 'grpo\.num_steps=0': grpo\.num_steps must be at least 1"):
        load("", "grpo.num_steps=3", "grpo.num_steps=0")


def test_a_split_may_have_a_number_as_its_name(load):
    assert list(load("", "data.validation.2024.path=w").data.validation) == ["2024"]


def test_an_error_between_settings_says_where_they_were_set(load):
    with pytest.raises(ConfigError) as caught:
        load("grpo:\n  questions_per_step: 64\n", "grpo.num_minibatches=3")
    assert "launch.yaml:5 and override 'grpo.num_minibatches=3': grpo.questions_per_step must be" in str(caught.value)
    with pytest.raises(ConfigError, match=r"^grpo\.questions_per_step must be at least|^override 'learner"):
        load("", "learner.num_workers=65")
