"""The tokens by which a model names a choice: the letter that its response would begin with."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ssr1_rl.data.choices import choice_labels
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.tags import is_special, spelled_out
from ssr1_rl.errors import UserError

_MAX_TAIL = 64


def letter_tokens(builder: PromptBuilder, prompt_token_ids: Sequence[int], num_choices: int, model: str) -> list[int]:
    """The token of each choice's letter as the first token of a response to the prompt.

    Raises:
        UserError: the prompt leaves the response inside a thought, or a letter is not one token of its own.
    """
    prefill = builder.prefill().strip()
    if prefill and not prefill.rpartition("<")[2].startswith("/"):
        raise UserError(
            f"the chat template of {model} opens {prefill!r} for every response, so the response begins with a thought "
            "and not with a verdict; close it with verifier.chat_template_kwargs (for many models "
            "{enable_thinking: false}), or take a model that answers at once"
        )
    labels = choice_labels(num_choices)
    tokens = [_first_token(builder.tokenizer, prompt_token_ids, label) for label in labels]
    if None in tokens or len(set(tokens)) < len(tokens):
        shown = ", ".join(f"{label}: {token}" for label, token in zip(labels, tokens, strict=True))
        raise UserError(
            f"the letters of the verdicts are not one token each for {model} ({shown}), so a verdict has no "
            "probability of its own; take a model whose tokenizer has the letters, or use verifier.method=custom"
        )
    return [token for token in tokens if token is not None]


def _first_token(tokenizer: PreTrainedTokenizerBase, prompt_token_ids: Sequence[int], letter: str) -> int | None:
    """The token that `letter` is after the prompt; None if it is several tokens, or none of its own."""
    # The prompt's end is read back from its text, because a tokenizer may write a letter at the start of a text in
    # another way than after a line break. From the last special token on: no token joins text over it.
    special = is_special(tokenizer)
    tail = list(prompt_token_ids[-_MAX_TAIL:])
    start = max((index for index, token in enumerate(tail) if special.get(token)), default=0)
    text = spelled_out(tokenizer, tail[start:])
    before, after = _encoded(tokenizer, text), _encoded(tokenizer, text + letter)
    if after[: len(before)] == before:
        return after[-1] if len(after) == len(before) + 1 else None
    # The tokenizer joins the letter with what the prompt ends with, a space for example. The model cannot.
    return tokenizer.get_vocab().get(letter)


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
