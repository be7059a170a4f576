"""Variables of the chat template reach it, and cannot change what the prompt builder sets."""

import inspect
import json
import shutil

import pytest
from transformers import PreTrainedTokenizerBase

from ssr1_rl.checks.rules import load_config
from ssr1_rl.checks.template_options import OWNED, unread_variables
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.errors import ConfigError, UserError
from ssr1_rl.types import Question

NEEDED = ["run.name=x", "model.path=m", "data.train.path=q.json"]
THINKING = (
    "{% if refuse %}{{ raise_exception('no such role') }}{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>{% endif %}"
)
QUESTION = Question("1", "How many?", "one", ("one", "two"))


@pytest.fixture(scope="module")
def thinking_model(random_text_model, tmp_path_factory):
    """A model whose template ends with an empty thought if enable_thinking is false."""
    folder = tmp_path_factory.mktemp("models") / "thinking"
    shutil.copytree(random_text_model, folder)
    file = folder / "chat_template.jinja"
    if file.is_file():
        file.write_text(file.read_text() + THINKING)
    else:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["chat_template"] += THINKING
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(folder)


def prompt(model, **kwargs):
    builder = PromptBuilder(model, DataConfig(chat_template_kwargs=kwargs))
    return builder.tokenizer.decode(builder.prepare(QUESTION, [], []).token_ids)


def test_a_variable_reaches_the_template(thinking_model):
    config = load_config(None, [*NEEDED, "data.chat_template_kwargs={enable_thinking: false}"])
    assert config.data.chat_template_kwargs == {"enable_thinking": False}
    assert prompt(thinking_model, **config.data.chat_template_kwargs).endswith("<think>\n\n</think>")
    assert prompt(thinking_model, enable_thinking=True) == prompt(thinking_model)


def test_what_the_prompt_builder_sets_cannot_be_changed(thinking_model):
    plain = prompt(thinking_model)
    for name, value in {"tokenize": True, "add_generation_prompt": False, "chat_template": "mine"}.items():
        assert prompt(thinking_model, **{name: value}) == plain


@pytest.mark.parametrize("name", OWNED)
def test_what_is_no_variable_is_refused_with_what_to_do(name):
    with pytest.raises(ConfigError, match=rf"data\.chat_template_kwargs\.{name} cannot be set: .*, got 'x'"):
        load_config(None, [*NEEDED, f"data.chat_template_kwargs={{{name}: x}}"])


def test_every_parameter_of_transformers_is_refused():
    parameters = inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters
    assert OWNED.keys() == parameters.keys() - {"self", "kwargs"} | {"messages"}


def test_a_variable_that_the_template_does_not_read_is_noted(thinking_model):
    template = PromptBuilder(thinking_model, DataConfig()).template
    [line] = unread_variables({"enable_thinking": False, "thinking": True, "enable": 1}, template)[:1]
    assert line == "data.chat_template_kwargs.thinking has no effect: the model's chat template does not read it"
    assert len(unread_variables({"enable_thinking": False, "thinking": True, "enable": 1}, template)) == 2


def test_a_template_that_refuses_a_prompt_is_quoted(thinking_model):
    with pytest.raises(
        UserError, match=r"the chat template of .* refuses the prompt: no such role; check data\.system"
    ):
        prompt(thinking_model, refuse=True)


def test_a_folder_without_a_whole_tokenizer_is_named(random_text_model, tmp_path):
    shutil.copy(random_text_model / "config.json", tmp_path)
    with pytest.raises(UserError, match=rf"{tmp_path} has no chat template; .* with its tokenizer's files"):
        PromptBuilder(str(tmp_path), DataConfig())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=rf"model\.path {tmp_path}: its tokenizer cannot be loaded"):
        PromptBuilder(str(tmp_path), DataConfig())
