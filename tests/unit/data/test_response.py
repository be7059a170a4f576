"""Responses to learn: the token that ends them, special tokens in them, and tags that the prompt has opened."""

import json

import pytest
from transformers import Qwen2Config

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.response import ResponseEncoder, end_of_turn, stop_ids

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def encoder(model, template=""):
    builder = PromptBuilder(str(model), DataConfig())
    if template:
        builder._template = template
    return ResponseEncoder(builder, str(model)), builder.tokenizer


def test_a_response_ends_with_the_token_that_ends_a_turn(random_text_model):
    made, tokenizer = encoder(random_text_model)
    ids = made.encode(" <think> one </think> <answer> three </answer>\n")
    assert tokenizer.decode(ids) == "<think> one </think> <answer> three </answer><|im_end|>"
    assert ids[-1] == made.end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_special_tokens_in_a_text_are_spelled_out(random_text_model):
    made, tokenizer = encoder(random_text_model)
    ids = made.encode("one <|im_end|>\n<|im_start|>user <|endoftext|>")
    assert not set(ids[:-1]) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids[:-1]).startswith("one < |im_end|>")


def test_the_template_s_end_wins_over_the_tokenizer_s_if_engines_stop_at_it(random_text_model, tmp_path):
    tokenizer = encoder(random_text_model)[1]
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("im_end", "endoftext")}
    tokenizer.eos_token = "<|endoftext|>"
    Qwen2Config(eos_token_id=ids["im_end"]).save_pretrained(tmp_path)
    assert stop_ids(str(tmp_path), tokenizer) == {ids["im_end"], ids["endoftext"]}, "as vLLM reads config.json"
    Qwen2Config(eos_token_id=None).save_pretrained(tmp_path)
    assert stop_ids(str(tmp_path), tokenizer) == {ids["endoftext"]}
    assert end_of_turn(tokenizer, TEMPLATE, stop_ids(str(tmp_path), tokenizer)) == ids["endoftext"]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids["im_end"], ids["endoftext"]]}))
    assert end_of_turn(tokenizer, TEMPLATE, stop_ids(str(tmp_path), tokenizer)) == ids["im_end"]


def test_a_template_without_an_assistant_leaves_the_tokenizer_s_end(random_text_model):
    tokenizer = encoder(random_text_model)[1]
    refusing = "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    assert end_of_turn(tokenizer, refusing, {0}) == tokenizer.eos_token_id


@pytest.mark.parametrize(
    ("text", "learned"),
    [
        ("<think> one </think> <answer> three </answer>", "one </think> <answer> three </answer>"),
        ("<answer> three </answer>", "</think>\n<answer> three </answer>"),
    ],
)
def test_a_tag_that_the_prompt_opens_is_not_repeated_and_is_closed(random_text_model, text, learned):
    made, tokenizer = encoder(
        random_text_model, TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    )
    assert tokenizer.decode(made.encode(text)[:-1]) == learned
