"""Any DeepSpeed setting can be given under learner.deepspeed, none that contradicts the learner."""

import os

import pytest
import torch

from ssr1_rl.checks.deepspeed_options import FREE, OWNED, check_deepspeed_options, zero_options
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.errors import ConfigError
from ssr1_rl.trainer.deepspeed_setup import RankSpec, deepspeed_settings, join_peers, laid_over, parameter_groups
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX


def nested(name, value):
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@pytest.mark.parametrize("name", OWNED)
def test_what_the_learner_sets_is_refused_with_what_to_use_instead(name):
    with pytest.raises(ConfigError) as caught:
        check_deepspeed_options(LearnerConfig(deepspeed=nested(name, "mine")))
    message = str(caught.value)
    assert message.startswith(f"learner.deepspeed.{name} is set by the learner itself: ")
    assert message.endswith(", got 'mine'")
    used = [word for word in message.split() if word.startswith(("learner.", "grpo.", "model."))][1:]
    assert used or "leave it out" in message
    settings = {"learner": LearnerConfig(), "model": ModelConfig()}
    for word in used:
        section, _, field = word.rstrip(":,").partition(".")
        assert section == "grpo" or hasattr(settings[section], field), f"{word} is not a setting"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zero_optimization": True}, r"learner\.deepspeed\.zero_optimization must hold settings, got True"),
        ({"bf16": None}, r"learner\.deepspeed\.bf16 must hold settings, got None"),
        (
            {"zero_optimization": {"offload_param": "cpu"}},
            r"learner\.deepspeed\.zero_optimization\.offload_param must hold settings, got 'cpu'",
        ),
    ],
)
def test_a_value_where_settings_belong_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        check_deepspeed_options(LearnerConfig(deepspeed=options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gradient_cliping": 1},
            r"learner\.deepspeed\.gradient_cliping is not a setting of DeepSpeed: gradient_clipping is set by the "
            r"learner itself: use learner\.max_grad_norm instead",
        ),
        ({"elasticity": {}}, r"learner\.deepspeed\.elasticity is not a setting of DeepSpeed: "),
        ({"sparse_gradients": True}, r"learner\.deepspeed\.sparse_gradients is not a setting of DeepSpeed: "),
        ({"zero_optimisation": {}}, r"zero_optimisation is not a setting .*: did you mean zero_optimization\?"),
        (
            {"zero_optimization": {"reduce_bucket": 1}},
            r"learner\.deepspeed\.zero_optimization\.reduce_bucket is not a set.*did you mean reduce_bucket_size\?",
        ),
        ({"zzz": 1}, r"learner\.deepspeed\.zzz is not a setting of .*: known: activation_checkpointing, aio"),
    ],
)
def test_what_deepspeed_does_not_know_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        check_deepspeed_options(LearnerConfig(deepspeed=options))


class Asked(dict):
    """DeepSpeed's configuration, which records every name that is read from it."""

    def __init__(self, *args):
        super().__init__(*args)
        self.names = set()

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name):
        self.names.add(name)
        return super().__contains__(name)

    def keys(self):
        return self

    def __copy__(self):
        return self


def test_the_installed_deepspeed_reads_what_is_listed(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime import config as deepspeed_config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    monkeypatch.setattr(deepspeed_config.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(deepspeed_config.dist, "get_world_size", lambda: 1)
    asked = Asked({"train_micro_batch_size_per_gpu": 1})
    deepspeed_config.DeepSpeedConfig(asked)
    known = asked.names - deepspeed_config._REMOVED_TOP_LEVEL_CONFIG_KEYS.keys()
    owned = {name for name in OWNED if "." not in name}
    assert known - owned == FREE
    assert owned - known == {"amp", "data_parallel_size"}, "an old name, and one that deepspeed.initialize reads"

    fields = DeepSpeedZeroConfig.model_fields
    known = fields.keys() | {field.alias for field in fields.values() if field.alias}
    owned = {name.removeprefix("zero_optimization.") for name in OWNED if name.startswith("zero_optimization.")}
    assert known == zero_options()
    assert {name for name in owned if "." not in name} <= known


def test_everything_else_reaches_deepspeed():
    options = {
        "zero_optimization": {"reduce_bucket_size": 1000, "offload_optimizer": {"pin_memory": False}},
        "bf16": {"check_grad_overflow": False},
    }
    learner = LearnerConfig(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu", deepspeed=options)
    check_deepspeed_options(learner)
    settings = deepspeed_settings(ModelConfig(dtype="bfloat16"), learner)
    assert settings["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 1000,
        "offload_optimizer": {"device": "cpu", "pin_memory": False},
        "offload_param": {"device": "cpu"},
    }
    assert settings["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert settings["communication_data_type"] == "fp32", "else bfloat16 gradients are added up in bfloat16"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


def test_what_is_offloaded_is_page_locked():
    """By DeepSpeed's own default: pageable memory would halve the speed of every copy and forbid to overlap it."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    learner = LearnerConfig(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")
    zero = DeepSpeedZeroConfig(**deepspeed_settings(ModelConfig(), learner)["zero_optimization"])
    assert zero.offload_optimizer.pin_memory and zero.offload_param.pin_memory


@pytest.mark.parametrize(
    ("settings", "threads"), [({"num_cpus": 15.6}, 16), ({"num_cpus": 0.4}, 1), ({"num_threads": 3}, 3)]
)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_rank_computes_on_its_cores_also_where_only_the_optimizer_needs_them(monkeypatch, device, settings, threads):
    import deepspeed

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    given = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(deepspeed, "init_distributed", lambda backend, **_: given.append(backend))
    join_peers(RankSpec(0, 1, "127.0.0.1", 1, device), LearnerConfig(**settings))
    assert given == [threads, "gloo" if device == "cpu" else "nccl"]


def test_whatever_the_learner_sets_is_owned():
    learner = LearnerConfig(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")

    def leaves(settings, prefix=""):
        for name, value in settings.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    free = {"steps_per_print"}  # it sets how often DeepSpeed prints, and contradicts nothing
    assert set(leaves(deepspeed_settings(ModelConfig(), learner))) - free <= OWNED.keys()


def test_laying_over_changes_neither_side():
    ours, theirs = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}
    assert laid_over(ours, theirs) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert (ours, theirs) == ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}})


def test_norms_and_biases_do_not_decay(random_audio_model):
    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    Policy(model, SOFTMAX, train_audio_tower=True)
    names = {p: name for name, p in model.named_parameters()}
    decaying, others = parameter_groups(model, 0.3)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {names[p] for p in others["params"]} == {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (name.endswith(".bias") or "norm" in name.split(".")[-2])
    }
    assert len(decaying["params"]) + len(others["params"]) == sum(p.requires_grad for p in model.parameters())
