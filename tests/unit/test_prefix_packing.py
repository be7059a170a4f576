"""Packed groups give the log-probs and gradients of transformers' own forward pass over one response at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from ssr1_rl.data.prompt import MelExtractor, expand_audio_placeholders, num_audio_tokens, num_mel_frames
from ssr1_rl.trainer.batching import Row, collate
from ssr1_rl.trainer.families import load_model
from ssr1_rl.trainer.policy import Policy

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
FAMILIES = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}
# From three tokens on: with fewer, whole gradients are 0 but for float error, and have no relative difference.
GROUPS = st.lists(
    st.tuples(st.integers(3, 12), st.lists(st.integers(1, 9), min_size=1, max_size=5)), min_size=1, max_size=4
)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(found, expected):
    assert found.keys() == expected.keys()
    total = float(torch.cat([gradient.flatten() for gradient in expected.values()]).norm())
    for name, gradient in expected.items():
        # Some gradients are 0 but for float error: softmax does not feel a key's bias, nor a lone key at all.
        scale = max(float(gradient.norm()), 1e-3 * total)
        assert float((found[name] - gradient).norm()) <= 1e-5 * scale, name


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(GROUPS, st.integers(0, 2**31))
def test_a_text_model(family, groups, seed):
    torch.manual_seed(seed)
    kind, config = FAMILIES[family]
    model = kind(config(**SIZES)).eval()
    rows = []
    for length, responses in groups:
        prompt = tuple(torch.randint(VOCABULARY, (length,)).tolist())
        rows += [
            Row(prompt, (), tuple(torch.randint(VOCABULARY, (n,)).tolist()), (0.0,) * n, 1.0, True) for n in responses
        ]
    expected = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1]
        expected.append(torch.log_softmax(logits, -1).gather(-1, torch.tensor(row.response)[:, None])[:, 0])
    expected = torch.cat(expected)
    weights = torch.randn(len(expected))
    expected_gradients = gradients(model, (weights * expected).sum())
    batch = collate(rows, -1, lambda handle: handle, 0)
    assert batch.num_computed_tokens == sum(length + sum(responses) for length, responses in groups)
    found, _ = Policy(model, 1.0, False)(batch)
    assert (found - expected).abs().max() <= 1e-5
    check_gradients(gradients(model, (weights * found).sum()), expected_gradients)


@pytest.mark.parametrize("train_tower", [True, False])
def test_an_audio_model_with_several_clips(random_audio_model, train_tower):
    path = str(random_audio_model)
    model = load_model(path, torch.float32, "sdpa")
    extract = MelExtractor(path)
    rng = np.random.default_rng(0)
    placeholder = model.config.audio_token_id
    rows = []
    for num_samples, lengths in [((16_000, 8_000), (3, 1, 7)), ((), (2, 2)), ((20_001,), (5,))]:
        clips = tuple((0.3 * rng.standard_normal(n)).astype(np.float32) for n in num_samples)
        counts = [num_audio_tokens(num_mel_frames(n)) for n in num_samples]
        prompt = tuple(expand_audio_placeholders((1, *(placeholder for _ in clips), 2), placeholder, counts))
        for n in lengths:
            response = tuple(int(t) for t in rng.integers(10, 40, n))
            rows.append(Row(prompt, clips, response, (0.0,) * n, 1.0, True))

    def mel_of(clip):
        return id(clip), torch.from_numpy(extract(clip)), num_mel_frames(len(clip))

    def batch_of(rows):
        return collate(rows, placeholder, mel_of, model.config.audio_config.num_mel_bins)

    policy = Policy(model, 1.0, train_tower)
    # A prompt of its own for every row: nothing is shared then.
    alone = torch.cat([policy(batch_of([replace(row, prompt=(*row.prompt,))]))[0] for row in rows])
    weights = torch.randn(len(alone), generator=torch.Generator().manual_seed(0))
    expected = gradients(model, (weights * alone).sum())
    packed = batch_of(rows)
    assert packed.num_computed_tokens < packed.num_row_tokens
    assert len(packed.num_mel_frames) == 3, "each clip once"
    found, _ = policy(packed)
    assert (found - alone).abs().max() <= 1e-5
    check_gradients(gradients(model, (weights * found).sum()), expected)
    assert any(name.startswith("model.audio_tower") for name in expected) == train_tower


def test_sliding_windows_are_refused():
    config = Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ValueError, match="qwen2 model with sliding-window attention"):
        Policy(Qwen2ForCausalLM(config), 1.0, False)
