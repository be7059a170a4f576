"""Packed groups of a text model give the log-probs and gradients of transformers' own forward over single responses."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX
from tests.unit.gradients import check_gradients, gradients

VOCABULARY = 50
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
# Model types, each with its special feature.
FAMILIES = {
    "qwen2": {},
    "qwen2 with a tied head": {"tie_word_embeddings": True},
    "qwen3": {},
    "llama": {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
    "llama with llama3's frequencies": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8,
        }
    },
    "qwen2 with yarn, its windows off": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 8,
        },
        "use_sliding_window": False,
        "sliding_window": 32768,
    },
    "mistral": {"sliding_window": None},
    "phi3": {"pad_token_id": 0},
    "olmo2": {},
    # Embeddings scaled beside the embedding layer; in Granite residuals and scores, too.
    "gemma": {"tie_word_embeddings": True},
    "granite": {"embedding_multiplier": 12.0, "residual_multiplier": 0.3, "attention_multiplier": 0.1},
    # Its second layer has no positions.
    "smollm3": {"pad_token_id": 0, "no_rope_layers": [1, 0]},
}
# Prompts of three tokens or more: with fewer, whole gradients are 0 but for float error, and have no relative
# difference. Responses may be empty or of one token, but not all of them empty: that batch has no loss.
RESPONSES = st.lists(st.integers(0, 9), min_size=1, max_size=5)
GROUPS = st.lists(st.tuples(st.integers(3, 12), RESPONSES), min_size=1, max_size=4).filter(
    lambda groups: any(sum(responses) for _, responses in groups)
)


def model_of(family, **settings_of_it):
    """A tiny model in float32."""
    config = CONFIG_MAPPING[family.split()[0]](**SIZES | FAMILIES[family] | settings_of_it)
    return AutoModelForCausalLM.from_config(config).eval()


def random_rows(groups):
    """Rows of random tokens for groups of (prompt length, response lengths)."""
    rows = []
    for length, responses in groups:
        prompt = tuple(torch.randint(VOCABULARY, (length,)).tolist())
        rows += [
            Row(prompt, (), tuple(torch.randint(VOCABULARY, (n,)).tolist()), (0.0,) * n, 1.0, True) for n in responses
        ]
    return rows


def logprobs_alone(model, row):
    """Log-probs by transformers' own forward pass over this row alone."""
    logits = model(input_ids=torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(row.response, dtype=torch.long)[:, None])[:, 0]


def packed(rows):
    return collate(rows, -1, lambda handle: handle, 0)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(GROUPS, st.integers(0, 2**31))
def test_packed_equals_unpacked(family, groups, seed):
    torch.manual_seed(seed)
    model = model_of(family)
    rows = random_rows(groups)
    expected = torch.cat([logprobs_alone(model, row) for row in rows])
    weights = torch.randn(len(expected))
    expected_gradients = gradients(model, (weights * expected).sum())
    batch = packed(rows)
    assert batch.num_computed_tokens == sum(length + sum(responses) for length, responses in groups)
    found, _ = Policy(model, SOFTMAX, False)(batch)
    assert (found - expected).abs().max() <= 1e-5
    check_gradients(gradients(model, (weights * found).sum()), expected_gradients)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()


GROUPS_OF_ALL_KINDS = [(5, (3, 0, 1)), (9, (1,)), (4, (0, 7, 2, 2)), (6, (0,))]


def loss_of(policy, rows):
    """A loss that weighs every token differently, independent of the order of rows."""
    logprobs, _ = policy(packed(rows))
    weights = [(i + 1) * token for row in rows for i, token in enumerate(row.response)]
    return (logprobs * torch.tensor(weights, dtype=torch.float32)).sum()


def test_order_of_groups_does_not_matter(model):
    rows = random_rows(GROUPS_OF_ALL_KINDS)
    groups = [[row for row in rows if row.prompt is prompt] for prompt in dict.fromkeys(row.prompt for row in rows)]
    policy = Policy(model, SOFTMAX, False)
    expected = gradients(model, loss_of(policy, rows))
    for seed in range(3):
        shuffled = random.Random(seed).sample(groups, len(groups))
        check_gradients(gradients(model, loss_of(policy, [row for group in shuffled for row in group])), expected)


def test_splitting_groups_does_not_matter(model):
    rows = random_rows(GROUPS_OF_ALL_KINDS)
    policy = Policy(model, SOFTMAX, False)
    expected = gradients(model, loss_of(policy, rows))
    single = sum(loss_of(policy, [row]) for row in rows if row.response)
    check_gradients(gradients(model, single), expected)


def test_gradient_checkpointing_does_not_matter(model, monkeypatch):
    rows = random_rows(GROUPS_OF_ALL_KINDS)
    policy = Policy(model, SOFTMAX, False)
    expected = gradients(model, loss_of(policy, rows))
    checkpoint_layers(model)
    runs = []
    layer = model.model.layers[0]
    attention = layer.self_attn.forward
    monkeypatch.setattr(layer.self_attn, "forward", lambda *a, **k: runs.append(1) or attention(*a, **k))
    check_gradients(gradients(model, loss_of(policy, rows)), expected)
    assert len(runs) == 2, "computed once more in the backward pass"
