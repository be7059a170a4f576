"""Tiny models are folders like published ones: transformers loads all of them, tokenizers restore text."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2AudioForConditionalGeneration

from benchmarks.tiny_text import build_tiny_qwen2_text
from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio

TEXTS = ["How many beeps are there?\n(A) one", "<think> I hear a beep </think> <answer> one </answer>"]


@pytest.fixture(scope="module")
def audio_model(tmp_path_factory):
    return build_tiny_qwen2_audio(tmp_path_factory.mktemp("models") / "audio", TEXTS)


def test_audio_model_loads_with_no_key_missing_or_left_over(audio_model):
    model, info = Qwen2AudioForConditionalGeneration.from_pretrained(audio_model, output_loading_info=True)
    assert not any(info.values())
    assert 800_000 < sum(p.numel() for p in model.parameters()) < 1_000_000
    assert not model.config.tie_word_embeddings and not model.config.text_config.tie_word_embeddings


def test_audio_model_has_the_published_names(audio_model):
    """vLLM reads only these names; transformers' own save_pretrained writes others."""
    with safe_open(audio_model / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {name.split(".")[0] for name in names} == {"language_model", "audio_tower", "multi_modal_projector"}
    assert {"language_model.lm_head.weight", "language_model.model.embed_tokens.weight"} <= names
    assert json.loads((audio_model / "config.json").read_text())["architectures"] == [
        "Qwen2AudioForConditionalGeneration"
    ]


def test_same_seed_same_weights(audio_model, tmp_path):
    again = build_tiny_qwen2_audio(tmp_path / "again", TEXTS)
    other = build_tiny_qwen2_audio(tmp_path / "other", TEXTS, seed=1)
    weights = (audio_model / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights != (other / "model.safetensors").read_bytes()


def test_known_words_and_tags_are_single_tokens(audio_model):
    tokenizer = AutoTokenizer.from_pretrained(audio_model)
    assert len(tokenizer.tokenize("How many beeps are there?\n(A) one")) == 8
    assert len(tokenizer.tokenize("<think> I hear a beep </think> <answer> one </answer>")) == 9
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.parametrize("text", [*TEXTS, "Unknown words, naïve 東京 🎵\n\ttoo  <b>!", ""])
def test_text_comes_back(audio_model, text):
    tokenizer = AutoTokenizer.from_pretrained(audio_model)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_text_model(tmp_path):
    folder = build_tiny_qwen2_text(tmp_path / "text", TEXTS)
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert 5_000_000 < sum(p.numel() for p in model.parameters()) < 7_000_000
    tokenizer = AutoTokenizer.from_pretrained(folder)
    token_ids = tokenizer("How many 東京?")["input_ids"]
    assert tokenizer.decode(token_ids) == "How many 東京?"
    with torch.no_grad():
        assert model(torch.tensor([token_ids])).logits.shape == (1, len(token_ids), len(tokenizer))


def test_positions_of_the_audio_tower_are_whisper_s(audio_model):
    """The tower's positions are never trained: noise in their place would stay noise."""
    with safe_open(audio_model / "model.safetensors", "pt") as file:
        positions = file.get_tensor("audio_tower.embed_positions.weight")
    steps = torch.arange(1500.0)
    assert torch.allclose(positions[:, 0], torch.sin(steps), atol=1e-4)
    assert torch.allclose(positions[:, 48], torch.cos(steps), atol=1e-4)
