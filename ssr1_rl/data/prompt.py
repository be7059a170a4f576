"""A question -> what the model reads, with one audio placeholder per clip; the only place that handles placeholders.

vLLM expands each placeholder itself, the learner does it with `expand_audio_placeholders`. Both expand it
to the number of tokens that the model's `AudioFamily` gives.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from ssr1_rl.audio_families import audio_family_of, trained_config
from ssr1_rl.data.choices import choice_labels
from ssr1_rl.data.tags import opened_tags, tag_tokens, tags_of_texts
from ssr1_rl.errors import UserError
from ssr1_rl.types import Clip, PreparedQuestion, Question

if TYPE_CHECKING:
    from ssr1_rl.config.sections.data import DataConfig

NO_PLACEHOLDER = -1
"""Token id of a text-only model's audio placeholder: no token has it."""


class PromptTooLong(UserError):
    """A prompt beyond data.max_prompt_tokens; the message names the question's source."""


def expand_audio_placeholders(token_ids: Sequence[int], placeholder_id: int, lengths: Sequence[int]) -> list[int]:
    """Repeats the i-th placeholder `lengths[i]` times, as vLLM does internally.

    Raises:
        ValueError: placeholders and clips differ in number (for example, the prompt is already expanded).
    """
    num_found = sum(token == placeholder_id for token in token_ids)
    if num_found != len(lengths):
        raise UserError(
            f"found {num_found} audio placeholders for {len(lengths)} clips; "
            "give a prompt as PromptBuilder builds it, with one placeholder per clip and no response"
        )
    remaining = iter(lengths)
    expanded: list[int] = []
    for token in token_ids:
        expanded.extend([token] * next(remaining) if token == placeholder_id else [token])
    return expanded


def choice_lines(question: Question) -> list[str]:
    """The lines that add the choices to the question, such as `(A) one`, each starting with a line break."""
    labels = choice_labels(len(question.choices))
    return [f"\n({label}) {choice}" for label, choice in zip(labels, question.choices, strict=True)]


def question_text(question: Question, instruction: str, replace_video_by_audio: bool = False) -> str:
    """The question, its choices, and the instruction on a line of its own if there is one."""
    text = question.text
    if replace_video_by_audio:
        text = text.replace("video", "audio").replace("Video", "Audio")
    return "".join([text, *choice_lines(question), f"\n{instruction}" * bool(instruction)])


class PromptBuilder:
    """Builds prompts with a model's own chat template.

    It loads the tokenizer and not the processor, since Qwen2.5-Omni's processor needs torchvision (for videos).

    Attributes:
        family: the model's audio family; None for a model that does not hear.
        audio_placeholder_id: token id of the placeholder that stands for a clip, or `NO_PLACEHOLDER`.
    """

    def __init__(self, model_path: str, data: DataConfig) -> None:
        self.tokenizer: PreTrainedTokenizerBase = _load_tokenizer(model_path)
        config = trained_config(AutoConfig.from_pretrained(model_path))
        self.family = audio_family_of(config)
        self.audio_placeholder_id = self.family.placeholder_id(config) if self.family else NO_PLACEHOLDER
        self._model_path = model_path
        self._data = data
        of_processor, _ = ProcessorMixin.get_processor_dict(model_path)
        # None: the tokenizer's own template is used.
        self._template: str | None = of_processor.get("chat_template")
        if not (self._template or self.tokenizer.chat_template):
            raise UserError(
                f"{model_path} has no chat template; use a chat (Instruct) model, with its tokenizer's files"
            )
        self._forbidden = special_in_text(self.tokenizer, tags_of_texts(data.instruction, data.system_prompt))

    @property
    def template(self) -> str:
        """The chat template of the prompts, in Jinja."""
        return self._template or self.tokenizer.get_chat_template()

    def prepare(self, question: Question, waveforms: Sequence[Clip], num_samples: Sequence[int]) -> PreparedQuestion:
        """Builds the prompt of one question; `num_samples` are the lengths of its waveforms.

        Raises:
            PromptTooLong: longer than data.max_prompt_tokens, audio tokens included.
            ValueError: the clips do not match the question or the model.
        """
        where = question.source or f"question {question.id}"
        if len(num_samples) != len(question.audio):
            raise UserError(f"{where}: got {len(num_samples)} waveforms for {len(question.audio)} clips")
        if num_samples and not self.family:
            raise UserError(f"{where}: the question has audio, but {self._model_path} does not hear")
        token_ids = self._encode(question, len(num_samples))
        lengths = tuple(map(self.family.clip_tokens, num_samples)) if self.family else ()
        num_tokens = len(expand_audio_placeholders(token_ids, self.audio_placeholder_id, lengths))
        if num_tokens > self._data.max_prompt_tokens:
            raise PromptTooLong(
                f"{where}: the prompt has {num_tokens} tokens, more than data.max_prompt_tokens="
                f"{self._data.max_prompt_tokens}; raise it, shorten the question, or lower data.max_audio_s"
            )
        return PreparedQuestion(question, tuple(token_ids), tuple(waveforms), lengths)

    def prefill(self) -> str:
        """The tags that the chat template opens for every response, such as `<think>`; empty if it opens none."""
        return opened_tags(self.tokenizer, self._encode(Question("", "?", ""), num_clips=0))

    def notes(self) -> list[str]:
        """What a user may not expect of the model's prompts."""
        prefill = self.prefill()
        if not prefill:
            return []
        return [
            f"the model's chat template ends every prompt with {prefill.strip()!r}: rewards count it as part of the "
            "response, and a reward function of yours finds it in completion.full_text, but not in completion.text"
        ]

    def _user_text(self, question: Question) -> str:
        """The text of the user's message; special tokens spelled out in it have no effect."""
        return self.neutralise(question_text(question, self._data.instruction, self._data.replace_video_by_audio))

    def _encode(self, question: Question, num_clips: int) -> list[int]:
        """Token ids with one placeholder per clip."""
        text = self._user_text(question)
        messages: list[dict[str, Any]] = []
        if self._data.system_prompt:
            messages.append({"role": "system", "content": self.neutralise(self._data.system_prompt)})
        if self.family:
            # Templates look for the key `audio_url` or for the type; the address itself is not read.
            clips = [{"type": "audio", "audio_url": ""} for _ in range(num_clips)]
            messages.append({"role": "user", "content": [*clips, {"type": "text", "text": text}]})
        else:
            messages.append({"role": "user", "content": text})
        # What is set here wins over the user's variables.
        kwargs: dict[str, Any] = {
            **self._data.chat_template_kwargs,
            "chat_template": self._template,
            "tokenize": False,
            "add_generation_prompt": True,
        }
        try:
            rendered = self.tokenizer.apply_chat_template(messages, **kwargs)
        except TemplateError as error:
            raise UserError(
                f"the chat template of {self._model_path} refuses the prompt: {error}; check data.system_prompt (some "
                "templates allow none) and data.chat_template_kwargs"
            ) from error
        assert isinstance(rendered, str), "tokenize=False gives text"
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    def neutralise(self, text: str) -> str:
        """Breaks up special tokens spelled out in a text, so that data can neither add a clip nor end a turn."""
        return broken_up(self._forbidden, text)


def _load_tokenizer(model_path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model_path)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"model.path {model_path}: its tokenizer cannot be loaded ({reason}); give a whole model folder"
        ) from error


def broken_up(special: re.Pattern[str], text: str) -> str:
    """The text with special tokens broken up, so that data can neither add a clip or an image nor end a turn."""
    return special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def special_in_text(tokenizer: PreTrainedTokenizerBase, tags: Collection[str]) -> re.Pattern[str]:
    """Matches every special token except `tags`, such as `<think>`, which are special tokens of some models."""
    are_tags = tag_tokens(tokenizer)
    tokens = [
        added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.special or (added.content.startswith("<|") and added.content.endswith("|>"))
        if not (token in are_tags and added.content in tags)
    ]
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
