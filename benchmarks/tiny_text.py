"""Builds a small text-only Qwen2 model with random weights, and its tokenizer, for benchmarks and tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from ssr1_rl.demo.tiny_models import TEMPLATE_TEXT, TEXT_SPECIAL_TOKENS, qwen2_settings, write_model

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of Qwen2's chat models."""

MAX_VOCABULARY = 2000


def build_tiny_qwen2_text(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    hidden_size: int = 256,
    intermediate_size: int = 1024,
    num_layers: int = 6,
) -> Path:
    """Writes a text-only Qwen2 model of random weights (6 M parameters); arguments as for the audio model."""
    folder = Path(folder)
    tokenizer = build_qwen2_tokenizer(texts)
    config = Qwen2Config(**qwen2_settings(tokenizer, hidden_size, intermediate_size, num_layers))
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    write_model(folder, config, "Qwen2ForCausalLM", dict(model.state_dict()))
    tokenizer.save_pretrained(folder)
    return folder


def build_qwen2_tokenizer(texts: Iterable[str]) -> Qwen2Tokenizer:
    """Makes a tokenizer of Qwen2's own kind, with merges learned from `texts`.

    transformers makes a `Qwen2Tokenizer` for every model of type qwen2, also if its tokenizer.json
    names another, so a text-only folder cannot have the audio model's word tokenizer.
    """
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        special_tokens=list(TEXT_SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((TEMPLATE_TEXT, *texts), trainer)
    learned = json.loads(tokenizer.to_str())["model"]
    merges: Any = [tuple(merge) for merge in learned["merges"]]
    return Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=merges,
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
    )
