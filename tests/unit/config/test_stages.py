"""A recipe's launch file: sections that all stages share, and what single stages set differently."""

import pytest

from ssr1_rl.config.load import OfStage, read_settings
from ssr1_rl.errors import ConfigError

SHARED = """\
run: {name: r, dir: out}
model: {path: base}
data: {train: {path: q.json}}
learner: {learning_rate: 1e-5, weight_decay: 0.1}
grpo: {group_size: 4}
stages:
  sft:
    learner: {learning_rate: 1e-3}
  grpo:
    grpo: {preset: dapo, num_steps: 7}
"""


@pytest.fixture
def stage(tmp_path):
    def read(name, command, *overrides, text=SHARED, wiring=None):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return read_settings(path, overrides, command, OfStage(name, wiring or {"run": {"dir": f"out/{name}"}}))[0]

    return read


def test_a_stages_own_section_wins_over_the_shared_one_and_keeps_the_rest_of_it(stage):
    sft, grpo = stage("sft", "sft"), stage("grpo", "grpo")
    assert (sft.learner.learning_rate, sft.learner.weight_decay) == (1e-3, 0.1)
    assert (grpo.learner.learning_rate, grpo.learner.weight_decay) == (1e-5, 0.1)
    assert (grpo.grpo.num_steps, grpo.grpo.group_size) == (7, 4)


def test_what_the_recipe_sets_wins(stage):
    assert stage("sft", "sft", "run.dir=elsewhere").run.dir == "out/sft"
    assert stage("sft", "sft").run.name == "r"


def test_a_preset_of_a_stage_lies_below_the_files_values(stage):
    grpo = stage("grpo", "grpo")
    assert grpo.grpo.clip_high == 0.28, "of the preset dapo"
    assert stage("sft", "sft").grpo.clip_high == 0.2
    own = SHARED.replace("group_size: 4", "group_size: 4, clip_high: 0.5")
    assert stage("grpo", "grpo", text=own).grpo.clip_high == 0.5


def test_an_override_wins_over_the_file_for_all_stages_or_for_one(stage):
    assert stage("sft", "sft", "learner.learning_rate=2").learner.learning_rate == 2
    assert stage("sft", "sft", "stages.sft.learner.learning_rate=3").learner.learning_rate == 3
    assert stage("grpo", "grpo", "stages.sft.learner.learning_rate=3").learner.learning_rate == 1e-5
    both = ("stages.sft.learner.learning_rate=3", "learner.learning_rate=2")
    assert stage("sft", "sft", *both).learner.learning_rate == 2, "the last one wins"
    assert stage("sft", "sft", "~stages.sft.learner.learning_rate").learner.learning_rate == 1e-5


def test_interpolations_see_the_stages_own_values(stage):
    text = SHARED.replace("weight_decay: 0.1", "weight_decay: '${learner.learning_rate}'")
    assert stage("sft", "sft", text=text).learner.weight_decay == 1e-3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("learning_rate: 1e-3", "learning_rte: 1e-3", r"recipe\.yaml:8: unknown setting stages\.sft\.learner\."),
        ("  sft:\n", "  sfd:\n", r"recipe\.yaml:7: unknown setting stages\.sfd; did you mean stages\.sft\?"),
        ("learning_rate: 1e-3", "learning_rate: -1", r"recipe\.yaml:8: learner\.learning_rate must be greater than 0"),
    ],
)
def test_an_error_names_the_line_of_the_stage(stage, old, new, message):
    with pytest.raises(ConfigError, match=message):
        stage("sft", "sft", text=SHARED.replace(old, new))


def test_a_misspelt_setting_of_another_stage_is_found_too(stage):
    with pytest.raises(ConfigError, match=r"stages\.grpo\.grpo\.num_stps; did you mean"):
        stage("sft", "sft", text=SHARED.replace("num_steps: 7", "num_stps: 7"))


def test_a_stage_cannot_set_what_connects_it_with_the_others(stage):
    wiring = {"run": {"dir": "out/sft"}, "sft": {"chains": "out/verified.parquet"}}
    with pytest.raises(ConfigError, match=r"stages\.sft\.sft\.chains is set by the recipe.*leave it out"):
        stage("sft", "sft", "stages.sft.sft.chains=x", wiring=wiring)


def test_only_a_recipe_has_stages(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(SHARED)
    with pytest.raises(ConfigError, match="unknown setting stages"):
        read_settings(path)
    assert read_settings(path, (), "recipe")[0].learner.learning_rate == 1e-5
