"""A text that a model is to learn as its response -> token ids, with the token that ends a turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

if TYPE_CHECKING:
    from ssr1_rl.data.prompt import PromptBuilder


class ResponseEncoder:
    """Encodes responses to the prompts of one `PromptBuilder`.

    Attributes:
        end_of_turn: id of the token that ends every response.
    """

    def __init__(self, builder: PromptBuilder, model_path: str) -> None:
        self._builder = builder
        self._opened = builder.prefill().strip()
        self.end_of_turn = end_of_turn(builder.tokenizer, builder.template, stop_ids(model_path, builder.tokenizer))

    def encode(self, text: str) -> tuple[int, ...]:
        """The response's token ids.

        Special tokens spelled out in it have no effect. Tags that the prompt opens, such as <think>, are not repeated;
        a text that does not begin with them closes them first.
        """
        text = self._builder.neutralise(text.strip())
        if self._opened and text.startswith(self._opened):
            text = text.removeprefix(self._opened).lstrip()
        elif self._opened:
            text = self._opened.replace("<", "</") + "\n" + text
        ids: list[int] = self._builder.tokenizer(text, add_special_tokens=False)["input_ids"]
        return (*ids, self.end_of_turn)


def end_of_turn(tokenizer: PreTrainedTokenizerBase, template: str, stops: set[int]) -> int:
    """The token with which the chat template ends an assistant's turn, if engines stop at it; else the tokenizer's."""
    try:
        after = after_assistant(tokenizer, template)
    except TemplateError:  # it takes no messages of an assistant
        after = ""
    ids: list[int] = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    found = next((token for token in ids if token in stops), tokenizer.eos_token_id)
    assert isinstance(found, int), "every chat model has one end-of-sequence token"
    return found


def after_assistant(tokenizer: PreTrainedTokenizerBase, template: str = "") -> str:
    """What the chat template (empty: the tokenizer's own) writes after an assistant's message.

    Raises:
        TemplateError: the template takes no such messages.
    """
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "xyz"}]
    chosen: dict[str, Any] = {"chat_template": template} if template else {}
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, **chosen)
    assert isinstance(rendered, str), "tokenize=False gives text"
    return rendered.rpartition("xyz")[2]


def stop_ids(path: str, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens at which vLLM ends a response: the tokenizer's, and those of generation_config.json, or config.json."""
    try:
        configured = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # the model has no generation_config.json
        configured = GenerationConfig.from_model_config(AutoConfig.from_pretrained(path)).eos_token_id
    ids = [tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])]
    return {token for token in ids if isinstance(token, int)}
