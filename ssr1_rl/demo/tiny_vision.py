"""Builds a small Idefics3 model, with random weights and a vocabulary made for given texts: a teacher that sees.

It reads several images in one prompt, each as one square of `image_size` pixels. Of the vision models that vLLM serves
on a CPU it is the simplest.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

from ssr1_rl.demo.tiny_models import build_word_tokenizer, write_model

END, START, PAD = "<end_of_utterance>", "<|im_start|>", "<|im_end|>"
IMAGE, AROUND_IMAGE, WHOLE_IMAGE = "<image>", "<fake_token_around_image>", "<global-img>"

CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}"
    "{% if line['type'] == 'text' %}{{ line['text'] }}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The template of SmolVLM, an Idefics3 model: each message's content is a list of images and texts."""

TEMPLATE_TEXT = "User: \nSystem: \nAssistant:"


def build_tiny_idefics3(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    hidden_size: int = 128,
    num_layers: int = 3,
    tower_size: int = 96,
    tower_layers: int = 2,
    image_size: int = 64,
    patch_size: int = 16,
    scale_factor: int = 4,
) -> Path:
    """Writes an Idefics3 model of random weights (0.9 M parameters) that transformers and vLLM load.

    `texts` are what the model will read and write; each word in them becomes one token. An image, of any size, is
    scaled to `image_size`, and each square of `scale_factor` by `scale_factor` patches becomes one token. `hidden_size`
    and `tower_size` are multiples of 32, the size of a head. Returns the folder.
    """
    assert image_size % (scale_factor * patch_size) == 0, "an image is cut into whole squares of patches"
    folder = Path(folder)
    special = (PAD, START, END, IMAGE, AROUND_IMAGE, WHOLE_IMAGE)
    tokenizer = build_word_tokenizer((TEMPLATE_TEXT, *texts), special, eos_token=END, pad_token=PAD, bos_token=START)
    token_id = tokenizer.convert_tokens_to_ids
    settings: dict[str, Any] = {
        "vision_config": {
            "hidden_size": tower_size,
            "intermediate_size": tower_size * 8 // 3,
            "num_hidden_layers": tower_layers,
            "num_attention_heads": tower_size // 32,
            "image_size": image_size,
            "patch_size": patch_size,
        },
        "text_config": {
            "model_type": "llama",
            "hidden_size": hidden_size,
            "intermediate_size": 2 * hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": hidden_size // 32,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 2048,
            "bos_token_id": token_id(START),
            "eos_token_id": token_id(END),
            "pad_token_id": token_id(PAD),
            "tie_word_embeddings": False,
        },
        "image_token_id": token_id(IMAGE),
        "pad_token_id": token_id(PAD),
        "scale_factor": scale_factor,
        # As in the text's configuration: with the default of either, vLLM drops lm_head.
        "tie_word_embeddings": False,
    }
    config = Idefics3Config(**settings)
    torch.manual_seed(seed)
    model = Idefics3ForConditionalGeneration(config)
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_model(folder, config, "Idefics3ForConditionalGeneration", state)
    # Without splitting, an image is one square, however large it is.
    size = {"longest_edge": image_size}
    images = Idefics3ImageProcessorPil(size=size, max_image_size=size, do_image_splitting=False)
    num_tokens = (image_size // (scale_factor * patch_size)) ** 2
    Idefics3Processor(images, tokenizer, image_seq_len=num_tokens, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    return folder
