"""What the tests of the teacher share: tiny vision models' tokenizers, and a few questions with videos."""

from pathlib import Path

import pytest

from ssr1_rl.demo.tiny_models import build_word_tokenizer
from ssr1_rl.demo.tiny_vision import build_tiny_idefics3
from ssr1_rl.types import Question, VideoRef
from tests.unit.data.videos import grey, write_video

TEXTS = ["What do you hear?\n(A) a bark\n(B) a horn", "<think> a bark </think> <answer> a bark </answer>"]

QWEN_2_5_VL = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in "
    "content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] "
    "== 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video "
    "{{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}"
    "{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% endif %}"
)
"""The template that Qwen2.5-VL is published with."""


@pytest.fixture(scope="session")
def tiny_vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Idefics3 of random weights."""
    return build_tiny_idefics3(tmp_path_factory.mktemp("models") / "vision", TEXTS)


@pytest.fixture(scope="session")
def qwen_vl_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer with the special tokens and the template of Qwen2.5-VL, without a model."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    tokenizer = build_word_tokenizer(TEXTS, special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = QWEN_2_5_VL
    folder = tmp_path_factory.mktemp("models") / "qwen"
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 s of 10 frames a second, each brighter than the last."""
    return write_video(tmp_path_factory.mktemp("videos") / "clip.mp4", [grey(index) for index in range(20)])


@pytest.fixture
def question(video: Path) -> Question:
    return Question(
        "7",
        "What do you hear?",
        "a bark",
        ("a bark", "a horn"),
        video=VideoRef(str(video)),
        kind="animals",
        source="train.json row 1",
    )
