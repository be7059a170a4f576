"""Any DeepSpeed setting can be given under learner.deepspeed, none that contradicts the learner."""

import pytest
import torch

from ssr1_rl.config import ConfigError, LearnerConfig, ModelConfig
from ssr1_rl.trainer.deepspeed_options import OWNED, check_deepspeed_options, laid_over
from ssr1_rl.trainer.deepspeed_setup import deepspeed_settings, parameter_groups
from ssr1_rl.trainer.families import load_model
from ssr1_rl.trainer.policy import Policy


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
        assert section == "grpo" or hasattr(settings[section], field), f"{word} is no setting"


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


def test_everything_else_reaches_deepspeed():
    options = {
        "zero_optimization": {"reduce_bucket_size": 1000, "offload_optimizer": {"pin_memory": False}},
        "bf16": {"check_grad_overflow": False},
        "communication_data_type": "fp32",
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
    assert settings["communication_data_type"] == "fp32"
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


def test_whatever_the_learner_sets_is_owned():
    learner = LearnerConfig(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")

    def leaves(settings, prefix=""):
        for name, value in settings.items():
            yield from leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [prefix + name]

    free = {"steps_per_print"}  # how often DeepSpeed prints contradicts nothing
    assert set(leaves(deepspeed_settings(ModelConfig(), learner))) - free <= OWNED.keys()


def test_laying_over_changes_neither_side():
    ours, theirs = {"a": {"b": 1}, "c": 2}, {"a": {"d": 3}}
    assert laid_over(ours, theirs) == {"a": {"b": 1, "d": 3}, "c": 2}
    assert (ours, theirs) == ({"a": {"b": 1}, "c": 2}, {"a": {"d": 3}})


def test_norms_and_biases_do_not_decay(random_audio_model):
    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    Policy(model, 1.0, train_audio_tower=True)
    names = {p: name for name, p in model.named_parameters()}
    decaying, others = parameter_groups(model, 0.3)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert {names[p] for p in others["params"]} == {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and (name.endswith(".bias") or "norm" in name.split(".")[-2])
    }
    assert len(decaying["params"]) + len(others["params"]) == sum(p.requires_grad for p in model.parameters())
