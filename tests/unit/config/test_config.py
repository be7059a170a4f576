"""A launch file is refused before anything starts, and the error says where and how to fix it."""

import os
import re
from pathlib import Path

import pytest

from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.presets import PRESETS, describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import config_to_yaml
from ssr1_rl.errors import ConfigError
from tests.documented_commands import LOADERS, command_of
from tests.unit.config.conftest import NEEDED

ROOT = Path(__file__).parents[3]
LAUNCH_FILES = sorted((ROOT / "launch").glob("*.yaml"))
GRPO_FILES = [path for path in LAUNCH_FILES if command_of(path) == "grpo"]


def test_defaults_fill_what_the_file_leaves_out(load):
    config = load("grpo: {group_size: 16}\n", "grpo.num_steps=7", "rewards.0.weight=2.5", "run.name=a=b")
    assert isinstance(config, Config)
    assert (config.grpo.group_size, config.grpo.num_steps, config.grpo.questions_per_step) == (16, 7, 64)
    assert config.rewards[0].weight == 2.5
    assert (config.run.name, config.run.dir) == ("a=b", "runs/a=b")


def test_written_settings_read_back_the_same(load, tmp_path):
    config = load("data: {train: {path: q}, validation: {v: {path: w}}}\n", start="run: {name: x}\nmodel: {path: m}\n")
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "grpo:\n  num_steps: 3\n  group_sise: 8\n",
            r"launch\.yaml:6: unknown setting grpo\.group_sise.*grpo\.group_size\?",
        ),
        ("grop: {group_size: 8}\n", r"launch\.yaml:4: unknown setting grop; did you mean grpo\?"),
        (
            "rewards:\n  - {nmae: accuracy}\n",
            r"launch\.yaml:5: unknown setting rewards\[0\]\.nmae.*rewards\[0\]\.name\?",
        ),
        ("telemetry: {zzz: 1}\n", r"unknown setting telemetry\.zzz; known there: tensorboard, trackers"),
        ("grpo: {group_size: 1}\n", r"launch\.yaml:4: grpo\.group_size must be at least 2, got 1 \(group-relative"),
        ("rollout: {temperature: 0}\n", r"rollout\.temperature must be greater than 0, got 0\.0 .*without variance"),
        ("rollout: {gpu_memory_utilization: 1.5}\n", r"rollout\.gpu_memory_utilization must be at most 1, got 1\.5"),
        ("rewards: [{name: format, num_actors: 0}]\n", r"rewards\[0\]\.num_actors must be at least 1, got 0"),
        ("learner: {learning_rate: .nan}\n", r"learner\.learning_rate must be a finite number, got nan"),
        ("rewards: [{name: accuracy, weight: .nan}]\n", r"rewards\[0\]\.weight must be .*number, got nan"),
        ("rewards: [{name: accuracy, weight: .inf}]\n", r"rewards\[0\]\.weight must be a finite number, got inf"),
        ("grpo: {group_size: many}\n", r"launch\.yaml:4: grpo\.group_size must be a whole number, got 'many'"),
        ("grpo: {group_size: 8.5}\n", r"launch\.yaml:4: grpo\.group_size must be a whole number, got 8\.5"),
        ("grpo: {group_size: true}\n", r"launch\.yaml:4: grpo\.group_size must be a whole number, got True"),
        ("grpo: {validate_first: [1]}\n", r"launch\.yaml:4: grpo\.validate_first must be true or false, got \[1\]"),
        (
            "learner: {adam_betas: [0.9]}\n",
            r"launch\.yaml:4: learner\.adam_betas must be a list of 2 values, got \[0\.9\]",
        ),
        ("learner: {adam_betas: [0.9, x]}\n", r"launch\.yaml:4: learner\.adam_betas\[1\] must be a number, got 'x'"),
        ("learner: {learning_rate: fast}\n", r"launch\.yaml:4: learner\.learning_rate must be a number, got 'fast'"),
        (
            "data: {train: {path: q.json}, validation: {v: {}}}\n",
            r"launch\.yaml:4: data is set twice \(first in line 3\); remove one",
        ),
        ("rollout: {weight_transfer: glo}\n", r"must be one of auto, nccl, gloo \(did you mean gloo\?\), got 'glo'"),
        (
            "rollout: {top_k: 1}\n",
            r"rollout\.top_k=1 leaves only the likeliest token.*to 0 \(all tokens\) or more than 1",
        ),
        ("rollout: {min_p: 1}\n", r"rollout\.min_p=1 leaves only the likeliest token"),
        ("rollout: {top_p: 0}\n", r"rollout\.top_p must be greater than 0, got 0\.0"),
        ("rollout: {stop: [a, '']}\n", r"rollout\.stop\[1\] is empty"),
        ("learner: {zero_stage: 4}\n", r"learner\.zero_stage must be one of 0, 1, 2, 3, got 4"),
        ("rewards: []\n", r"rewards must name at least one reward function"),
        ("rewards: [{weight: 1}]\n", r"rewards\[0\]\.name and rewards\[0\]\.path are both empty"),
        ("rewards: [{name: format}, {name: accuracy}, {name: format}]\n", r"rewards\[2\]\.name 'format' is used twice"),
        ("rewards: [{path: 'a.py:f'}, {path: 'a.py:f'}]\n", r"rewards\[1\]\.name 'f' is used twice"),
        ("rewards: [{path: 'a.py:f'}, {path: 'b.py:f'}]\n", r"rewards\[1\]\.name 'f' is used twice"),
        ("rewards: [{name: format}, {path: 'a.py:format'}]\n", r"rewards\[1\]\.name 'format' is used twice"),
        (
            "grpo: {num_minibatches: 3}\n",
            r"must be divisible by grpo\.num_minibatches=3, got 64; the nearest that fits is 63",
        ),
        (
            "learner: {num_workers: 33}\ngrpo: {num_minibatches: 2}\n",
            r"must be at least .*\(33 x 2 = 66\), a question for every learner rank in every mini-batch, got 64",
        ),
        ("learner: {deepspeed: {zero_optimization: {stage: 3}}}\n", r"use learner\.zero_stage instead, got 3"),
        (
            "learner: {deepspeed: {zero_optimization: {offload_optimizer: {device: cpu}}}}\n",
            r"learner\.deepspeed\.zero_optimization\.offload_optimizer\.device .*use learner\.offload_optimizer ",
        ),
        (
            "learner: {zero_stage: 0, offload_optimizer: cpu}\n",
            r"learner\.offload_optimizer=cpu needs learner\.zero_stage 1, 2 or 3, got 0",
        ),
        (
            "learner: {zero_stage: 2, offload_parameters: cpu}\n",
            r"learner\.offload_parameters=cpu needs learner\.zero_stage=3 .*, got 2",
        ),
        ("learner: {offload_optimizer: nvme}\n", r"learner\.offload_optimizer must be one of none, cpu, got 'nvme'"),
        ("learner: {deepspeed: {gradient_clipping: 0.5}}\n", r"use learner\.max_grad_norm instead, got 0\.5"),
        (
            "checkpoint: {every: '${oc.env:SSR1_RL_NOT_SET}'}\n",
            r"launch\.yaml:4: checkpoint\.every needs the environment variable SSR1_RL_NOT_SET, which is not set: .*",
        ),
        (
            "checkpoint: {every: '${nowhere.at_all}'}\n",
            r"launch\.yaml:4: checkpoint\.every: .*'nowhere.at_all' not found$",
        ),
        ("run: {name: y}\n", r"launch\.yaml:4: run is set twice \(first in line 1\)"),
        ("grpo: [\n", r"not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused(load, text, message):
    with pytest.raises(ConfigError, match=rf"(?s){message}"):
        load(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("grpo.group_sise=3", r"override 'grpo\.group_sise=3': unknown setting .*did you mean grpo\.group_size\?"),
        ("grop.group_size=3", r"unknown setting grop; did you mean grpo\?"),
        ("grpo={num_steps: 3, group_sise: 3}", r"group_sise"),
        ("grpo.group_size", r"must look like section\.setting=value"),
        (
            "grpo.group_size=many",
            r"override 'grpo\.group_size=many': grpo\.group_size must be a whole number, got 'many'",
        ),
        ("grpo={group_size: 1}", r"override 'grpo=\{group_size: 1\}': grpo\.group_size must be at least 2"),
        ("grpo.num_steps={", r"override 'grpo\.num_steps=\{': '\{' is not a YAML value; close its brackets"),
        ("run.name=[${a.}]", r"override 'run\.name=.*': run\.name: '\[\$\{a\.\}\]' is not a valid interpolation"),
        ("model.lora=16", r"model\.lora must hold settings \(rank, alpha, .* such as model\.lora\.rank=…\), got 16"),
        ("model.lora.target_modules=q_proj", r"target_modules must be a list \(\[a, b\]\) of text, got 'q_proj'"),
        (
            "model.lora.target_modules=all-linear",
            r"target_modules must be a list \(\[a, b\]\) of text, got 'all-linear'",
        ),
        (
            "rewards.name=x",
            r"rewards must be a list of entries that hold name.*rewards\[0\]\.name=…\), got \{'name': 'x'\}",
        ),
        ("model.path.x=1", r"override 'model\.path\.x=1': model\.path must be text, got \{'x': 1\}"),
        ("rewards.5.weight=1", r"override 'rewards\.5\.weight=1': rewards has no entry 5; set the whole list"),
        ("learner.deepspeed=[1]", r"learner\.deepspeed must hold settings \(name: value\), got \[1\]"),
        ("learner.adam_betas=[0.9]", r"learner\.adam_betas must be a list of 2 values, got \[0\.9\]"),
        ("grpo.preset=ppo", r"grpo\.preset must be one of grpo, dapo, .*reinforce_pp, or empty for none.*, got 'ppo'"),
        ("grpo.preset=DAPO", r"grpo\.preset must be one of .*did you mean dapo\?\), got 'DAPO'"),
        ("grpo..num_steps=1", r"must look like section\.setting=value"),
        ("grpo.group_size=1", r"grpo\.group_size must be at least 2"),
        ("learner.deepspeed.optimizer.type=Adam", r"use learner\.learning_rate and the settings after it instead"),
        ("model.lora.rank=-1", r"model\.lora\.rank must be at least 0, got -1"),
        ("model.lora.dropout=0.1", r"unknown setting model\.lora\.dropout; known there: rank, alpha, target_modules"),
        (
            "model.lora={rank: 8, target_modules: []}",
            r"model\.lora\.target_modules must name at least one linear layer",
        ),
        ("run.seed=null", r"override 'run\.seed=null': run\.seed must be a whole number, got nothing \(null\)"),
        ("rollout={x: 1}", r"override 'rollout=\{x: 1\}': unknown setting rollout\.x; known there: num_workers"),
        ("learner.zero_stage=three", r"learner\.zero_stage must be one of 0, 1, 2, 3, got 'three'"),
        ("run.device=", r"run\.device must be one of cuda, cpu, got ''"),
        ("run.device=null", r"run\.device must be one of cuda, cpu, got nothing \(null\)"),
        ("learner.adam_betas=[0.9, 1]", r"override '.*': learner\.adam_betas\[1\] must be less than 1, got 1\.0"),
        ("data.validation.v.max_questions=3", r"data\.validation\.v\.path is required and not set"),
    ],
)
def test_a_wrong_override_is_refused(load, override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load("", override)
    assert "omegaconf" not in str(caught.value).lower()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        pytest.param(
            "run: {name: x, device: cpu}\n",
            "run.name",
        ),
        ("model: {path: m}\n", "model.path"),
        ("data: {train: {path: q.json}}\n", "data.train.path"),
    ],
)
def test_a_missing_setting_is_named(load, key, path):
    with pytest.raises(ConfigError, match=rf"launch\.yaml: {path} is required and not set"):
        load(start=NEEDED.replace(key, ""))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"launch file .*nowhere\.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_file_without_sections_is_refused(load):
    with pytest.raises(ConfigError, match="must hold sections"):
        load(start="- a\n- b\n")


def test_mappings_of_file_and_overrides_are_joined_and_lists_replaced(load):
    text = "rollout: {engine_args: {block_size: 16, compilation_config: {level: 3}}}\n"
    text += "rewards: [{name: format, weight: 3}]\n"
    config = load(text, "rollout.engine_args.compilation_config.mode=1", "rewards.0.num_actors=2")
    assert config.rollout.engine_args == {"block_size": 16, "compilation_config": {"level": 3, "mode": 1}}
    assert [(r.name, r.weight, r.num_actors) for r in config.rewards] == [("format", 3.0, 2)]
    assert load(text, "rewards=[{name: accuracy}]").rewards[0].weight == 1.0


@pytest.mark.parametrize(("text", "value"), [("true", True), ("no", False), ("1", True), ("off", False)])
def test_a_truth_value_may_come_from_the_environment(load, monkeypatch, text, value):
    monkeypatch.setenv("SSR1_RL_TEST", text)
    assert load("grpo: {validate_first: '${oc.env:SSR1_RL_TEST}'}\n").grpo.validate_first is value


def test_environment_variables_are_read(load, monkeypatch):
    text = "checkpoint:\n  every: ${oc.env:SSR1_RL_TEST,7}\n"
    monkeypatch.delenv("SSR1_RL_TEST", raising=False)
    assert load(text).checkpoint.every == 7
    monkeypatch.setenv("SSR1_RL_TEST", "9")
    assert load(text).checkpoint.every == 9


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        pytest.param("rewards: {name: accuracy}\n", (), "rewards", id="a mapping where a list belongs"),
        pytest.param("learner: {learning_rate: .inf}\n", (), "learning_rate", id="infinite learning rate"),
        pytest.param("learner: {adam_betas: [5, 7]}\n", (), "adam_betas", id="betas above 1"),
        pytest.param("learner: {deepspeed: {bf16: null}}\n", (), "bf16", id="null over an owned setting"),
        pytest.param(
            "learner: {deepspeed: {zero_optimization: true}}\n", (), "zero_optimization", id="no ZeRO section"
        ),
        pytest.param(
            "rollout: {engine_args: {tensor_parallel_size: 2}}\n", (), "tensor_parallel", id="owned by engine"
        ),
        pytest.param("rollout: {weight_transfer: nccl}\n", (), "weight_transfer", id="nccl on a CPU"),
        pytest.param(
            "rollout: {engine_args: {hf_overrides: {head_dtype: float32}}}\n",
            (),
            r"head_dtype is set by the system itself: use model\.float32_head",
            id="a head of the engine alone",
        ),
        pytest.param(
            "rollout: {engine_args: {hf_overrides: x}}\n", (), "hf_overrides must be a mapping", id="overrides as text"
        ),
    ],
)
def test_what_contradicts_the_system_is_refused(load, text, overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, *overrides)
    assert "None;" not in str(caught.value)


def test_a_preset_lies_between_the_defaults_and_the_file(load, tmp_path):
    grpo = load("grpo: {preset: dapo, clip_low: 0.1}\n", "grpo.overlong=mask").grpo
    assert (grpo.clip_low, grpo.clip_high, grpo.overlong, grpo.dynamic_sampling) == (0.1, 0.28, "mask", True)
    [set_by_preset, otherwise] = describe_preset(grpo)
    assert "preset dapo (DAPO, arXiv 2503.14476" in set_by_preset
    assert "clip_high=0.28" in set_by_preset
    assert "dynamic_sampling=True" in set_by_preset
    assert otherwise == "overridden: clip_low=0.1 instead of 0.2, overlong=mask instead of penalty"
    assert "clip_low" not in set_by_preset

    config = load("grpo: {preset: dapo, overlong_buffer_share: 0.3}\n", "grpo.preset=gspo")
    assert config.grpo.overlong_buffer_share == 0.3, "what the preset does not set stays the file's"
    assert (config.grpo.ratio, config.grpo.dynamic_sampling) == ("sequence", False)
    (tmp_path / "config.yaml").write_text(config_to_yaml(config))
    assert load_config(tmp_path / "config.yaml") == config
    assert len(describe_preset(config.grpo)) == 1
    assert describe_preset(load().grpo) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_run(load, name):
    grpo = load("", f"grpo.preset={name}").grpo
    assert {key: getattr(grpo, key) for key in PRESETS[name].values} == PRESETS[name].values


@pytest.mark.parametrize("path", GRPO_FILES, ids=lambda path: path.name)
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_on_the_command_line_wins_over_the_file(path, name):
    grpo = load_config(path, [f"grpo.preset={name}"]).grpo
    assert {key: getattr(grpo, key) for key in PRESETS[name].values} == PRESETS[name].values
    assert len(describe_preset(grpo)) == 1, "nothing is overridden"


@pytest.mark.parametrize("order", [1, -1])
def test_other_values_of_the_command_line_win_over_its_preset(load, order):
    overrides = ["grpo.preset=gspo", "grpo.clip_low=0.1"][::order]
    grpo = load("grpo: {clip_low: 0.3, clip_high: 0.3}\n", *overrides).grpo
    assert (grpo.clip_low, grpo.clip_high, grpo.ratio) == (0.1, 4e-4, "sequence")
    assert load("grpo: {preset: dapo}\n", "grpo={preset: gspo, clip_low: 0.1}").grpo == load("", *overrides).grpo


def test_an_empty_preset_on_the_command_line_undoes_the_files(load):
    assert load("grpo: {preset: dapo}\n", "grpo.preset=").grpo == load().grpo


def test_the_constant_denominator_is_the_longest_response_unless_set(load):
    assert load("rollout: {max_response_tokens: 77}\n").grpo.denominator_tokens == 77
    assert load("grpo: {denominator_tokens: 5}\n").grpo.denominator_tokens == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("preset: daop", r"grpo\.preset must be one of .*did you mean dapo\?.*'daop'"),
        ("kl_target: 0.1", r"grpo\.kl_target=0\.1 adapts grpo\.kl_coefficient, which is 0: set grpo\.kl_coef"),
        (
            "dual_clip: 0.9",
            r"grpo\.dual_clip must be greater than 1 \+ grpo\.clip_high = 1\.2, or 0 for none, got 0\.9",
        ),
        ("dual_clip: 1.2", r"grpo\.dual_clip must be greater than 1 \+ grpo\.clip_high = 1\.2.*got 1\.2 .*set it to 3"),
        ("dual_clip: 3, clip_high: 4", r"grpo\.dual_clip must be greater than .* = 5, .*got 3 .*set it to 10"),
        ("clip: soft, dual_clip: 3", r"grpo\.dual_clip=3 bounds what grpo\.clip=soft bounds already"),
        ("clip: soft, ratio: cispo", r"grpo\.clip=soft needs grpo\.ratio=token or sequence, got 'cispo'"),
        ("preset: gmpo, clip: soft", r"grpo\.clip=soft needs grpo\.ratio=token or sequence, got 'geometric_mean'"),
        ("importance_correction: mask, importance_cap: 1", r"grpo\.importance_cap must be greater than 1 with .*=mask"),
        ("importance_correction: mask, importance_floor: 1", r"grpo\.importance_floor must be less than 1, got 1"),
        ("rejection_cap: 0.99", r"grpo\.rejection_cap must be greater than 1, or 0 for none, got 0\.99"),
        ("rejection_floor: 0.99", r"grpo\.rejection_floor=0\.99 drops no response without grpo\.rejection_cap"),
        ("kl_coefficient: 0.1, kl_placement: reward", r"a group of equal rewards differs only by the noise of its KL"),
        (
            "kl_coefficient: 0.1, kl_estimator: k2, kl_importance_ratio: true",
            r"grpo\.kl_importance_ratio=true needs grpo\.kl_estimator=k1 or k3, got 'k2'",
        ),
        (
            "normalize_each_reward: true, advantage_scale: batch_std",
            r"grpo\.normalize_each_reward=true needs grpo\.advantage_scale=group_std, got 'batch_std'",
        ),
        ("preset: cispo, dual_clip: 3", r"grpo\.dual_clip=3 .*grpo\.ratio=cispo.*set grpo\.dual_clip=0"),
        ("baseline: none", r"advantage_scale=group_std needs grpo\.baseline=group_mean or leave_one_out, got 'none'"),
        ("preset: reinforce_pp, advantage_scale: group_std", r"needs grpo\.baseline=group_mean.*got 'batch_mean'"),
        (
            "kl_coefficient: 0.1, kl_placement: reward_to_go",
            r"kl_placement=reward_to_go needs grpo\.advantage_scale=batch_std or none, got .group_std.*set one",
        ),
        ("importance_cap: 0.5", r"grpo\.importance_cap must be at least 1, got 0\.5"),
        ("overlong_buffer_share: 0", r"grpo\.overlong_buffer_share must be greater than 0, got 0\.0"),
        ("overlong: penalize", r"grpo\.overlong must be one of keep, mask, penalty"),
        ("preset: '${oc.env:SSR1_RL_NOT_SET}'", r"grpo\.preset needs .*SSR1_RL_NOT_SET"),
    ],
)
def test_settings_of_the_family_that_make_no_sense_are_refused(load, settings, message):
    with pytest.raises(ConfigError, match=message):
        load(f"grpo: {{{settings}}}\n")


def test_adapters_are_off_unless_a_rank_is_set(load):
    assert load().model.lora.rank == 0
    lora = load("", "model.lora.rank=16", "model.lora.target_modules=[q_proj, v_proj]").model.lora
    assert (lora.rank, lora.target_modules) == (16, ["q_proj", "v_proj"])


def test_an_override_can_add_a_validation_split(load):
    assert load("", "data.validation.more.path=w.json").data.validation["more"].path == "w.json"


@pytest.mark.parametrize("path", LAUNCH_FILES, ids=lambda path: path.name)
def test_launch_files_parse_and_can_be_run(path, monkeypatch):
    assert os.access(path, os.X_OK), "`ray job submit` runs the file itself"
    for name in re.findall(r"oc\.env:(\w+)", path.read_text()):
        monkeypatch.delenv(name, raising=False)
    config, command = LOADERS[command_of(path)](path), command_of(path)
    assert config.data.validation or command in ("distill", "recipe"), "a launch file shows whether it learns"


def test_the_demo_runs_the_local_launch_file():
    assert {path.name for path in LAUNCH_FILES} >= {"grpo.yaml", "local.yaml"}
    demo = ROOT / "ssr1_rl" / "demo" / "demo.yaml"
    assert demo.read_text() == (ROOT / "launch" / "local.yaml").read_text(), "an installed package has no launch/"


def test_a_value_where_a_section_belongs_is_refused_also_under_an_override(load):
    with pytest.raises(ConfigError, match=r"grpo must hold settings \(num_steps, .*\), got 5"):
        load("grpo: 5\n", "grpo.num_steps=3")
    assert load("grpo:\n", "grpo.num_steps=3").grpo.num_steps == 3
