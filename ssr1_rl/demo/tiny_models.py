"""Builds a small Qwen2-Audio model, with random weights and a vocabulary made for given texts.

With it the whole system (vLLM, DeepSpeed, weight sync) runs on a laptop. Its folder has the files of a published one,
so that no other code depends on the model being tiny.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Tokenizer,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import sinusoids

from ssr1_rl.audio_families import QWEN2_AUDIO

TEXT_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
AUDIO_SPECIAL_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")

CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or message['type'] == 'audio' or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of Qwen2-Audio-7B-Instruct."""

TEMPLATE_TEXT = "system\nYou are a helpful assistant.\nuser\nAudio 1: \nassistant\n"

_PIECES = r"\n\([A-Z]\)| ?</?[a-z]+>| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
"""Matches what becomes one token: a choice's letter with its line break, a tag, a word, a digit, a punctuation mark."""


def build_tiny_qwen2_audio(
    folder: str | Path,
    texts: Iterable[str],
    seed: int = 0,
    *,
    hidden_size: int = 128,
    num_layers: int = 3,
    tower_size: int = 96,
) -> Path:
    """Writes a Qwen2-Audio model of random weights (0.9 M parameters) that transformers and vLLM load.

    `texts` are what the model will read and write; each word in them becomes one token. `hidden_size` and `tower_size`
    are multiples of 32, the size of a head (the smallest for vLLM on a CPU). Returns the folder.
    """
    folder = Path(folder)
    special = (*TEXT_SPECIAL_TOKENS, *AUDIO_SPECIAL_TOKENS)
    tokenizer = build_word_tokenizer(
        (TEMPLATE_TEXT, *texts), special, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    settings: dict[str, Any] = {
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": tower_size,
            "encoder_layers": 2,
            "encoder_attention_heads": tower_size // 32,
            "encoder_ffn_dim": tower_size * 8 // 3,
            # vLLM needs the whole 30 s window, however short the clips are.
            "max_source_positions": 1500,
        },
        "text_config": {"model_type": "qwen2"} | qwen2_settings(tokenizer, hidden_size, 2 * hidden_size, num_layers),
        "audio_token_index": tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
        "tie_word_embeddings": False,
    }
    config = Qwen2AudioConfig(**settings)
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(config)
    # The tower's positions are frozen sinusoids, as in Whisper. transformers initialises them with noise. Then a model
    # learns the order of sounds late, and how late depends on the seed.
    positions = model.model.audio_tower.embed_positions.weight
    positions.data.copy_(sinusoids(*positions.shape))
    state = {QWEN2_AUDIO.published_name(name): value.contiguous() for name, value in model.state_dict().items()}
    write_model(folder, config, QWEN2_AUDIO.model_class, state)
    extractor = WhisperFeatureExtractor(feature_size=128)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=CHAT_TEMPLATE)
    processor.save_pretrained(folder)
    # As in published folders, because AutoFeatureExtractor reads its own file.
    extractor.save_pretrained(folder)
    return folder


def qwen2_settings(
    tokenizer: PreTrainedTokenizerFast | Qwen2Tokenizer, hidden_size: int, intermediate_size: int, num_layers: int
) -> dict[str, Any]:
    """Settings of the Qwen2 language model."""
    return {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 32,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 2048,
        "bos_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "pad_token_id": tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        # Set in every part of the configuration: transformers' default is True, with which vLLM drops lm_head.
        "tie_word_embeddings": False,
    }


def write_model(folder: Path, config: PreTrainedConfig, architecture: str, state: dict) -> None:
    """Writes configuration and weights (by published name) as a float32 model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [architecture]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def build_word_tokenizer(
    texts: Iterable[str], special: Sequence[str], *, eos_token: str, pad_token: str, bos_token: str | None = None
) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a known word is one token, an unknown word is one token per byte.

    `special` are all special tokens; their ids start at 0.
    """
    split = pre_tokenizers.Split(Regex(_PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    pieces = {piece for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text)}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = sorted(piece for piece in pieces if len(piece) > 1)
    vocabulary = {token: index for index, token in enumerate((*special, *alphabet, *words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    roles = {"eos_token": eos_token, "pad_token": pad_token} | ({"bos_token": bos_token} if bos_token else {})
    others = [token for token in special if token not in roles.values()]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles, additional_special_tokens=others)
