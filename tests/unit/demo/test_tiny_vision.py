"""The tiny teacher's folder is like a published one of Idefics3: transformers loads it and its processor."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, Idefics3ForConditionalGeneration

from ssr1_rl.demo.tiny_vision import build_tiny_idefics3

TEXTS = ["Which object is red?\n(A) bell", "<think> a bell rings </think> <answer> bell </answer>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_tiny_idefics3(tmp_path_factory.mktemp("models") / "vision", TEXTS, patch_size=8, scale_factor=2)


def test_the_model_loads_with_no_key_missing_or_left_over(folder):
    model, info = Idefics3ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert 700_000 < sum(p.numel() for p in model.parameters()) < 1_000_000
    assert not model.config.tie_word_embeddings and not model.config.text_config.tie_word_embeddings
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Idefics3ForConditionalGeneration"]


def test_an_image_of_any_size_is_one_square(folder):
    images = [Image.fromarray(np.full((height, width, 3), 40, np.uint8)) for height, width in ((48, 64), (200, 90))]
    pixels = AutoImageProcessor.from_pretrained(folder)(images, return_tensors="np")
    assert pixels["pixel_values"].shape == (1, 2, 3, 64, 64)
    assert pixels["pixel_attention_mask"].all(), "nothing is padding"


def test_the_processor_expands_each_image_to_its_tokens(folder):
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Which object is red?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "<|im_start|>User:<image><image>Which object is red?<end_of_utterance>\nAssistant:"
    image = Image.fromarray(np.zeros((64, 64, 3), np.uint8))
    ids = processor(images=[image, image], text=text)["input_ids"][0]
    expanded = ["<fake_token_around_image>", "<global-img>", *["<image>"] * 16, "<fake_token_around_image>"]
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    assert tokens[:3] == ["<|im_start|>", "User", ":"]
    assert tokens[3:41] == 2 * expanded
    assert tokens[-4:] == ["<end_of_utterance>", "Ċ", "Assistant", ":"]


def test_text_comes_back(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<end_of_utterance>"
    for text in (*TEXTS, "Unknown words, naïve 東京\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer.tokenize(TEXTS[1])) == 8


def test_same_seed_same_weights(folder, tmp_path):
    again = build_tiny_idefics3(tmp_path / "again", TEXTS, patch_size=8, scale_factor=2)
    other = build_tiny_idefics3(tmp_path / "other", TEXTS, seed=1)
    weights = (folder / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == weights != (other / "model.safetensors").read_bytes()
