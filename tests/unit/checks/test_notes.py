"""Settings without effect, or probably unintended ones, give a note and are not refused."""

from pathlib import Path

import pytest

from ssr1_rl.checks.distill_rules import load_distill
from ssr1_rl.checks.notes import notes, notes_on_answers, notes_on_sft
from ssr1_rl.checks.rules import load_config
from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.checks.unused import RULES, unused_settings, value_of
from ssr1_rl.config.presets import PRESETS
from ssr1_rl.config.schema import SECTIONS

NEEDED = ["run.name=x", "model.path=m", "data.train.path=q.json"]
OTHER = {int: 987, float: 0.987, list: ["q_proj"]}
ALL = {name for sections in SECTIONS.values() for name in sections}
LAUNCH = Path(__file__).parents[3] / "launch"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learner.warmup_steps=41", "grpo.num_steps=10", "grpo.num_epochs=2", "grpo.num_minibatches=2"], "40 updates"),
        (
            ["grpo.kl_coefficient=0.1", "grpo.kl_estimator=k1"],
            "set grpo.kl_estimator=k2 or k3, grpo.kl_importance_ratio=true, or grpo.kl_placement=rew",
        ),
        (["grpo.importance_cap=3"], "grpo.importance_cap=3.0 has no effect with grpo.importance_correction=none"),
        (["grpo.importance_level=sequence"], "grpo.importance_level=sequence has no effect"),
        (["grpo.kl_estimator=k1"], "grpo.kl_estimator=k1 has no effect with grpo.kl_coefficient=0"),
        (["grpo.denominator_tokens=100"], "grpo.denominator_tokens=100 has no effect without grpo.denominator=constan"),
        (["model.lora.target_modules=[q, v]"], "model.lora.target_modules=[q, v] has no effect with model.lora.rank=0"),
        (["rollout.kv_cache_gib=4"], "rollout.kv_cache_gib=4 has no effect with run.device=cuda"),
        (
            ["rollout.gpu_memory_utilization=0.5", "run.device=cpu"],
            "run.device=cpu: use rollout.kv_cache_gib",
        ),
        (
            ["rewards=[{path: 'a.py:f', options: {api_key: sk-1}}]"],
            "rewards[0].options.api_key looks like a secret",
        ),
        (
            ["grpo.preset=gspo", "grpo.importance_correction=none", "grpo.importance_level=token"],
            "bfloat16 noise alone exceeds a clip of 0.0003 / 0.0004: set grpo.importance_correction=tr",
        ),
        (["grpo.ratio=sequence", "grpo.denominator=sequence"], "grpo.preset=gspo sets 3e-4 and 4e-4"),
        (["grpo.preset=gspo", "grpo.denominator=batch_tokens"], "long responses weigh more: set grpo.denominator=seq"),
        (["grpo.preset=gmpo", "grpo.denominator=constant"], "long responses weigh more: set grpo.denominator=seq"),
        (["grpo.clip_low=0", "grpo.clip_high=0"], "take the gradient from every token as soon as its ratio moves"),
        (["grpo.preset=reinforce_pp", "grpo.dynamic_sampling=true"], "have a gradient with grpo.baseline=batch_mean"),
        (["grpo.preset=lite_ppo", "grpo.whiten_advantages=true"], "undoes grpo.baseline=group_mean with grpo.adv"),
        (["grpo.preset=gdpo"], "normalize_each_reward has no effect with a single reward function"),
        (["grpo.importance_floor=0.5"], "grpo.importance_floor=0.5 has no effect with grpo.importance_correction=none"),
        (
            ["grpo.soft_clip_positive=2"],
            "grpo.soft_clip_positive=2.0 has no effect with grpo.clip=hard: set that to so",
        ),
        (["grpo.preset=sapo", "grpo.clip_high=0.3"], "grpo.clip_high=0.3 has no effect with grpo.clip=soft"),
        (["grpo.kl_importance_ratio=true"], "has no effect with grpo.kl_coefficient=0 and kl_placement=loss"),
        (["grpo.batch_statistics=responses"], "has no effect with grpo.advantage_scale=group_std"),
        (["grpo.dynamic_sampling_limit=2"], "has no effect with grpo.dynamic_sampling=false: set that to true"),
        (["grpo.overlong=mask", "grpo.overlong_penalty=2"], "overlong=mask: set that to penalty or mask_and_penalty"),
        (["grpo.overlong_buffer_share=0.5"], "grpo.overlong_buffer_share=0.5 has no effect with grpo.overlong=keep"),
        (["grpo.ratio=cispo"], "grpo.preset=cispo sets clip_low=1 and clip_high=4"),
        (["learner.max_tokens_per_micro_batch=1000"], "is below one prompt of data.max_prompt_tokens=4096"),
    ],
)
def test_a_dubious_setting_is_said(overrides, said):
    [line] = notes(load_config(None, [*NEEDED, *overrides]))
    assert said in line


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learner.zero_stage=3", "learner.num_workers=2"], "set learner.zero_stage=2 if its memory fits"),
        (["learner.offload_optimizer=cpu", "learner.num_cpus=4"], "runs AdamW on 4 CPU threads per rank: reserve 8"),
        (["learner.offload_optimizer=cpu", "learner.num_cpus=0.5"], "runs AdamW on 1 CPU thread per rank"),
        (["learner.offload_optimizer=cpu", "learner.num_cpus=16", "learner.num_threads=2"], "on 2 CPU threads"),
    ],
)
def test_what_is_slow_on_gpus_is_said_of_them_alone(overrides, said):
    [line] = notes(load_config(None, [*NEEDED, *overrides]))
    assert said in line
    on_cpus = notes(load_config(None, [*NEEDED, *overrides, "run.device=cpu"]))
    assert all("has no effect with run.device=cpu" in line for line in on_cpus)


@pytest.mark.parametrize(
    "overrides",
    [
        ["learner.zero_stage=3"],
        ["learner.zero_stage=3", "learner.num_workers=2", "model.train_audio_tower=true"],
        ["learner.zero_stage=2", "learner.num_workers=2"],
        ["learner.offload_optimizer=cpu", "learner.num_cpus=8"],
        ["learner.warmup_steps=40", "grpo.num_steps=10", "grpo.num_epochs=2", "grpo.num_minibatches=2"],
        ["rewards=[{path: 'a.py:f', options: {api_key: '${oc.env:HOME}', max_tokens: 5}}]"],
        ["grpo.kl_coefficient=0.1", "grpo.kl_estimator=k1", "grpo.kl_placement=reward", "grpo.advantage_scale=none"],
        ["grpo.kl_coefficient=0.1", "grpo.kl_estimator=k1", "grpo.kl_importance_ratio=true"],
        ["grpo.preset=gdpo", "rewards=[{name: accuracy}, {name: format}]"],
        ["grpo.overlong=mask_and_penalty", "grpo.overlong_penalty=0.5", "grpo.overlong_buffer_share=0.1"],
        ["grpo.rejection_cap=1.01", "grpo.off_policy_mask=0.1"],
        ["grpo.importance_correction=mask", "grpo.importance_cap=3", "grpo.importance_level=sequence"],
        ["grpo.preset=gspo", "grpo.importance_correction=truncate"],
        ["grpo.preset=gspo", "model.dtype=float32"],
        *([f"grpo.preset={name}"] for name in PRESETS if name not in ("gspo", "gdpo")),
    ],
)
def test_nothing_is_said_of_the_rest(overrides):
    assert notes(load_config(None, [*NEEDED, *overrides])) == []


def test_every_setting_that_can_be_unused_is_noted_only_if_it_is_set_and_unused():
    for rule in RULES:
        for name in rule.names:
            config = load_config(None, [*NEEDED, "run.device=cuda"])
            assert not any(f"{name}=" in line for line in unused_settings(config, ALL)), "a default is not noted"
            *sections, last = name.split(".")
            setattr(value_of(config, ".".join(sections)), last, OTHER.get(type(value_of(config, name)), "other"))
            for device in ("cuda", "cpu"):
                config.run.device = device
                noted = [line for line in unused_settings(config, ALL) if line.startswith(f"{name}=")]
                assert len(noted) == rule.holds(config)


@pytest.mark.parametrize("name", ["grpo.yaml", "local.yaml"])
def test_launch_files_have_no_dubious_setting(name):
    assert notes(load_config(LAUNCH / name)) == []


@pytest.mark.parametrize("name", ["sft.yaml", "sft_local.yaml"])
def test_launch_files_of_sft_have_no_dubious_setting(name):
    assert notes_on_sft(load_sft(LAUNCH / name)) == []


@pytest.mark.parametrize(("stage", "section"), [("generate", "teacher"), ("verify", "verifier")])
def test_the_launch_file_of_the_teacher_has_no_dubious_setting(stage, section):
    assert notes_on_answers(load_distill(LAUNCH / "distill.yaml", stage=stage), (section,)) == []


def test_sft_notes_settings_of_its_own_sections_alone():
    needed = ["run.name=x", "model.path=m", "data.train.path=q.json", "sft.responses=labels", "run.device=cpu"]
    unused = ["model.lora.alpha=3", "learner.offload_optimizer=cpu", "model.dtype=float32", "grpo.kl_estimator=k1"]
    [lora, offload] = notes_on_sft(load_sft(None, [*needed, *unused]))
    assert lora.startswith("model.lora.alpha=3.0 has no effect with model.lora.rank=0")
    assert offload.startswith("learner.offload_optimizer=cpu has no effect with run.device=cpu")
