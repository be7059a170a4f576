"""Response tokens -> the text that rewards read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssr1_rl.data.tags import is_special, opened_tags, spelled_out, tag_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLOSING_TAG = re.compile(r"</([A-Za-z][\w-]*)>")


class ResponseText:
    """Decodes responses.

    Only tokens that end or pad a response are left out. Other special tokens are spelled out: tags such as <think> are
    special in some tokenizers and rewards look for them, and a response that contains an audio placeholder or opens a
    turn is malformed, which rewards have to see.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = is_special(tokenizer)
        self._tags = tag_tokens(tokenizer)
        ends = [str(token) for token in (tokenizer.eos_token, tokenizer.pad_token) if token]
        ids = tokenizer.convert_tokens_to_ids(ends)
        assert isinstance(ids, list), "a list of tokens has a list of ids"
        self._left_out = set(ids) - self._tags.keys()

    def decode(self, token_ids: Sequence[int], finish_reason: str, prefill: str = "") -> str:
        """The text of a response; with `finish_reason` "stop" its last token may be one that ends the turn."""
        kept = [token for token in token_ids if token not in self._left_out]
        end = ""
        # A model may end its turn with another token than the tokenizer's, which its generation_config.json names.
        if finish_reason == "stop" and token_ids and self._ends(token_ids[-1]):
            end = self._spelled(token_ids[-1:])
            kept = [token for token in token_ids[:-1] if token not in self._left_out]
        text = self._spelled(kept)
        # The end of a turn can be the tag that closes the answer.
        closing = _CLOSING_TAG.fullmatch(end)
        return text + end if closing and f"<{closing[1]}>" in prefill + text else text

    def prefill(self, prompt_token_ids: Sequence[int]) -> str:
        """The tags at the end of the prompt, inside which the response continues."""
        return opened_tags(self._tokenizer, prompt_token_ids)

    def _ends(self, token: int) -> bool:
        return token not in self._tags and (self._special.get(token, False) or token in self._left_out)

    def _spelled(self, token_ids: Sequence[int]) -> str:
        return spelled_out(self._tokenizer, token_ids)
