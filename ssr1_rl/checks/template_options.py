"""`data.chat_template_kwargs`: variables of the model's chat template, except those that the prompt builder sets."""

import re
from collections.abc import Mapping

from ssr1_rl.errors import ConfigError

_PROMPT_BUILDER = "leave it out: the prompt builder sets it"

OWNED = {
    "conversation": "leave it out: the messages are made of the question and data.system_prompt",
    "messages": "leave it out: the messages are made of the question and data.system_prompt",
    "chat_template": "leave it out, and change the template in the model's folder (chat_template.jinja)",
    "add_generation_prompt": _PROMPT_BUILDER,
    "continue_final_message": _PROMPT_BUILDER,
    "tokenize": _PROMPT_BUILDER,
    "tokenizer_kwargs": _PROMPT_BUILDER,
    "return_assistant_tokens_mask": _PROMPT_BUILDER,
    "return_dict": _PROMPT_BUILDER,
    "return_tensors": _PROMPT_BUILDER,
    "padding": _PROMPT_BUILDER,
    "truncation": "use data.max_prompt_tokens instead",
    "max_length": "use data.max_prompt_tokens instead",
    "tools": "leave it out: responses that call tools are not supported",
    "documents": "leave it out: put what the model has to read into the question or data.system_prompt",
}
"""What is not a variable of a template, or is set by the system, and what to do instead."""


def refuse_owned_variables(kwargs: Mapping[str, object], section: str = "data") -> None:
    """Raises `ConfigError` for a variable that the prompt builder sets itself."""
    for name, value in kwargs.items():
        if name in OWNED:
            fix = OWNED[name].replace("data.system_prompt", f"{section}.system_prompt")
            raise ConfigError(f"{section}.chat_template_kwargs.{name} cannot be set: {fix}, got {value!r}")


def unread_variables(kwargs: Mapping[str, object], template: str) -> list[str]:
    """A sentence for each variable whose name does not occur in the template."""
    return [
        f"data.chat_template_kwargs.{name} has no effect: the model's chat template does not read it"
        for name in kwargs
        if not re.search(rf"\b{re.escape(name)}\b", template)
    ]
