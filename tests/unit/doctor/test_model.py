"""Traps of tokenizers and chat templates."""

import pytest
from transformers import AutoTokenizer

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.doctor.model import check_end_of_turn, check_opened, check_prompt, check_tags

OPEN = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


@pytest.fixture
def tokenizer(random_text_model):
    return AutoTokenizer.from_pretrained(random_text_model)


def test_a_made_up_question_becomes_a_prompt(random_audio_model):
    config = Config(model=ModelConfig(path=str(random_audio_model)), data=DataConfig(train=DatasetConfig(path="q")))
    found = check_prompt(config)
    assert {f.level for f in found} == {"ok"}, found
    assert "tokens, with the chat template of the model" in found[0].what


def test_a_turn_that_ends_where_no_engine_stops_is_a_warning(tokenizer):
    stop = {tokenizer.eos_token_id}
    assert [f.level for f in check_end_of_turn(tokenizer, stop)] == ["ok"]
    tokenizer.chat_template = OPEN
    [found] = check_end_of_turn(tokenizer, stop)
    assert found.level == "warning"
    assert "ends an assistant's turn with ']'" in found.what
    assert "rollout.stop=[']']" in found.fix


def test_special_tags_and_opened_tags_are_said():
    assert check_tags("<think> </think>, then <answer>", {"<|im_end|>"}) == []
    [found] = check_tags("<think> </think>, then <answer>", {"<think>", "<answer>"})
    assert found.what.startswith("<think>, <answer> are special tokens")
    assert check_opened("<|im_start|>assistant\n") == []
    [found] = check_opened("<|im_start|>assistant\n<think>\n")
    assert "opens <think> itself" in found.what
