"""Tags such as <think> that are special tokens of a tokenizer, and tags that a chat template opens for the response."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ALWAYS_TAGS = frozenset({"<think>", "</think>", "<answer>", "</answer>"})
_TAG = re.compile(r"</?([A-Za-z][\w-]*)>")
_TAGS_AT_END = re.compile(r"(?:</?[A-Za-z][\w-]*>\s*)+\Z")
_MAX_PREFILL_TOKENS = 64


def is_special(tokenizer: PreTrainedTokenizerBase) -> dict[int, bool]:
    """Whether each token that was added to the vocabulary is special, by its id."""
    ids = set(tokenizer.all_special_ids)
    return {token: added.special or token in ids for token, added in tokenizer.added_tokens_decoder.items()}


def tag_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Added tokens that are tags, by their id: <think>, <answer>, and others that come in pairs, as <x> and </x>.

    Not the tokens that begin, end or pad a text: `<s>` and `</s>` are a pair, but no tags.
    """
    added = {token: entry.content for token, entry in tokenizer.added_tokens_decoder.items()}
    texts = set(added.values())
    roles = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    edges = {str(token) for token in roles}
    names = {match[1] for text in texts - edges if (match := _TAG.fullmatch(text))}
    paired = {name for name in names if {f"<{name}>", f"</{name}>"} <= texts - edges}
    return {
        token: text
        for token, text in added.items()
        if text in _ALWAYS_TAGS or ((match := _TAG.fullmatch(text)) and match[1] in paired)
    }


def tags_of_texts(*texts: str) -> frozenset[str]:
    """Tags that a response may use: <think>, <answer>, and every pair <x> … </x> in these texts."""
    found = {match[0]: match[1] for text in texts for match in _TAG.finditer(text)}
    return _ALWAYS_TAGS | {tag for tag, name in found.items() if {f"<{name}>", f"</{name}>"} <= found.keys()}


def opened_tags(tokenizer: PreTrainedTokenizerBase, prompt_token_ids: Sequence[int]) -> str:
    r"""The tags that a prompt ends with, such as "<think>\n": the response continues inside them. Empty without."""
    tags, special = tag_tokens(tokenizer), is_special(tokenizer)
    end = list(prompt_token_ids[-_MAX_PREFILL_TOKENS:])
    for position in reversed(range(len(end))):
        if special.get(end[position]) and end[position] not in tags:
            end = end[position + 1 :]
            break
    match = _TAGS_AT_END.search(spelled_out(tokenizer, end))
    return match[0] if match else ""


def spelled_out(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of the tokens, special tokens included."""
    text = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    assert isinstance(text, str), "one list of tokens is one text"
    return text
