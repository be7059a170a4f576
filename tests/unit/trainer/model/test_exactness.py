"""Models whose log-probs or weights would be wrong are refused, with the reason and what to set."""

import re

import pytest
import torch
from safetensors import safe_open
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from ssr1_rl.checks.preflight import check_model
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.model.exactness import check_exact
from ssr1_rl.trainer.model.policy import Policy, empty_policy
from ssr1_rl.types import SOFTMAX
from ssr1_rl.weights.parameters import named_weights
from tests.unit.trainer.batches.test_prefix_packing import FAMILIES, SIZES, model_of

SIZES_OF_ALL = SIZES | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WHOLE = {"layer_types": ["full_attention"] * 2}
LONG = [1.0] * 8
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": LONG,
    "long_factor": LONG,
    "factor": 2.0,
    "original_max_position_embeddings": 8,
}
BY_LAYER = {
    "full_attention": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}


def config_of(model_type, **settings_of_it):
    return CONFIG_MAPPING[model_type](**SIZES_OF_ALL | settings_of_it)


@pytest.mark.parametrize("prefix_packing", [True, False])
@pytest.mark.parametrize(
    ("model_type", "settings_of_it", "reason"),
    [
        ("gemma2", {}, "whose logits are more than lm_head of its hidden states"),
        ("granite", {"logits_scaling": 8.0}, "whose logits are more than lm_head"),
        ("cohere", {}, "whose logits are more than lm_head"),
        ("opt", {}, "whose logits need more than hidden states"),
        ("gpt2", {}, "without a linear lm_head over a backbone called model"),
        ("mixtral", {}, "whose weights transformers converts while it loads them"),
        ("llama", {"rope_parameters": BY_LAYER["full_attention"]}, "with rope_type dynamic in its config.json"),
        ("phi3", {"rope_parameters": LONGROPE}, "with rope_type longrope in its config.json"),
        ("gemma3_text", WHOLE | {"rope_parameters": BY_LAYER}, "with rope_type dynamic in its config.json"),
        ("gemma2", WHOLE | {"final_logit_softcapping": None}, "with soft-capped attention scores"),
        (
            "gpt_oss",
            WHOLE | {"num_local_experts": 2, "num_experts_per_tok": 1},
            "that transformers does not run with sdpa",
        ),
    ],
)
def test_refused_either_way(model_type, settings_of_it, reason, prefix_packing):
    message = f"^model.path names a {model_type} model {re.escape(reason)}.*; .*set .*model.path to another$"
    with pytest.raises(ValueError, match=message):
        check_exact(config_of(model_type, **settings_of_it), prefix_packing)


@pytest.mark.parametrize(
    ("model_type", "settings_of_it", "reason"),
    [
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}, "layers of sliding_att"),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}, "with layers of sliding_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "with layers of conv"),
        ("mistral", {"sliding_window": 4}, "with sliding-window attention"),
        ("phi3", {"sliding_window": 4}, "with sliding-window attention"),
        ("stablelm", {}, "whose attention does not use transformers' attention interface"),
        ("doge", {"num_key_value_heads": 4}, "that makes an attention mask of its own"),
        ("diffllama", {}, "of whose 2 layers 4 attend through transformers' interface"),
        (
            "youtu",
            {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "head_dim": 8, "num_key_value_heads": 4},
            "with heads of 24 in keys and 16 in",
        ),
    ],
)
def test_refused_where_packed_and_trained_where_padded(model_type, settings_of_it, reason):
    config = config_of(model_type, **settings_of_it)
    with pytest.raises(ValueError, match=f"{reason}.*cannot compute exactly; set learner.prefix_packing: false"):
        check_exact(config, True)
    check_exact(config, False)


def test_a_policy_looks_for_itself_and_leaves_model_and_seed_alone():
    model = model_of("mistral")
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Policy(model, SOFTMAX, False)
    assert torch.equal(torch.rand(1), expected)
    with pytest.raises(ValueError, match="with sliding-window attention"):
        Policy(model_of("mistral", sliding_window=4), SOFTMAX, False)


def test_refused_before_anything_starts(tmp_path):
    config_of("mistral", sliding_window=4).save_pretrained(tmp_path)
    settings = Config(model=ModelConfig(path=str(tmp_path)))
    with pytest.raises(ValueError, match=r"set learner\.prefix_packing: false"):
        check_model(settings.model, settings.learner.prefix_packing)
    settings.learner.prefix_packing = False
    check_model(settings.model, settings.learner.prefix_packing)
    with pytest.raises(ValueError, match=r"set learner\.prefix_packing: false"):
        empty_policy(str(tmp_path), False, prefix_packing=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_have_the_checkpoints_names(family, tmp_path):
    model = model_of(family)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert set(named_weights(model)) == set(file.keys())
    assert ("lm_head.weight" in named_weights(model)) != model.config.tie_word_embeddings
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path), type(model))
