"""Tokenizer and chat template: what they do to the tags, the clips and the end of a turn."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ssr1_rl.config.schema import Config
from ssr1_rl.data.audio import as_clip
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.data.response import after_assistant, stop_ids
from ssr1_rl.doctor.finding import Finding, error, ok, warning
from ssr1_rl.types import SAMPLE_RATE, AudioRef, Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_prompt(config: Config) -> list[Finding]:
    """Builds a prompt of one made-up question and looks at what a model would read.

    Raises:
        ValueError: the tokenizer or its chat template cannot be used at all.
    """
    builder = PromptBuilder(config.model.path, config.data)
    clips = (AudioRef("made-up"),) if builder.family else ()
    question = Question("doctor", "What do you hear?", "a dog", ("a dog", "a cat"), clips)
    silence = [as_clip(np.zeros(SAMPLE_RATE, np.float32)) for _ in clips]
    prepared = builder.prepare(question, silence, [SAMPLE_RATE] * len(clips))
    text = builder.tokenizer.decode(list(prepared.token_ids))
    assert isinstance(text, str), "one prompt decodes to one text"
    special = {token.content for token in builder.tokenizer.added_tokens_decoder.values() if token.special}
    return [
        ok(f"prompt of {config.model.path}: {len(prepared.token_ids)} tokens, with the chat template of the model"),
        *check_tags(config.data.instruction, special),
        *check_opened(text),
        *check_end_of_turn(builder.tokenizer, stop_ids(config.model.path, builder.tokenizer)),
    ]


def check_tags(instruction: str, special: Collection[str]) -> list[Finding]:
    """Tags of the instruction that the tokenizer has as special tokens."""
    tags = [tag for tag in dict.fromkeys(re.findall(r"</?[a-z_]+>", instruction)) if tag in special]
    if not tags:
        return []
    return [
        ok(f"{', '.join(tags)} are special tokens of the tokenizer; prompts and responses keep them as text"),
    ]


def check_opened(prompt: str) -> list[Finding]:
    """A tag that the chat template opens at the end of every prompt."""
    opened = re.search(r"<([a-z_]+)>\s*$", prompt)
    if not opened:
        return []
    return [
        ok(f"the chat template opens <{opened[1]}> itself: responses begin inside it, and rewards count it as opened"),
    ]


def check_end_of_turn(tokenizer: "PreTrainedTokenizerBase", stop_ids: Collection[int]) -> list[Finding]:
    """Whether the template ends an assistant's turn with a token at which engines stop."""
    after = after_assistant(tokenizer)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    if set(ids) & set(stop_ids):
        return [ok("the chat template ends a turn with a token at which engines stop")]
    return [
        warning(
            f"the chat template ends an assistant's turn with {after!r}, and engines stop at "
            f"{[tokenizer.decode([token]) for token in sorted(stop_ids)]}",
            "a model that learned this template would run to rollout.max_response_tokens every time",
            f"set rollout.stop=['{after.strip()}'], or name its token as eos_token_id in generation_config.json",
        )
    ]


def no_tokenizer(path: str, problem: Exception) -> Finding:
    """The finding if the tokenizer cannot be used."""
    return error(
        f"the tokenizer of {path} cannot be used: {problem}",
        "no prompt can be made",
        "give the folder or hub name of a chat model; with a hub name, the node needs the hub or a filled cache",
    )
