"""A question and frames of its silent video -> the teacher's prompt, for vLLM or for an OpenAI-compatible server.

The question and its choices stand there as in the student's prompt; the instruction is the teacher's own. vLLM expands
the image placeholders itself, so there is one for each frame.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase, ProcessorMixin

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.prompt import PromptTooLong, broken_up, question_text, special_in_text
from ssr1_rl.data.tags import tags_of_texts
from ssr1_rl.errors import UserError
from ssr1_rl.inference.request import Request
from ssr1_rl.types import Question

_LOOKS_SPECIAL = re.compile(r"<\|[^<>|\s]{1,64}\|>|</?[a-z_]{1,32}>|\[/?INST\]", re.IGNORECASE)
"""What may be a special token of a server's model, whose tokenizer is not known."""

_CHARACTERS_PER_TOKEN = 16
"""No question has so many for each token. A longer text is refused before its tokens are counted: a server's tokenizer
is not known, and another one may take seconds for a megabyte."""


class EnginePrompt:
    """Builds prompts with a model's own chat template, of its processor or its tokenizer.

    Raises:
        UserError: the model has no tokenizer or chat template, or its template takes no images, or no system message
            where one is set.
    """

    def __init__(self, teacher: TeacherConfig, data: DataConfig) -> None:
        self._teacher, self._data = teacher, data
        self._tokenizer = _tokenizer(teacher.model)
        of_processor, _ = ProcessorMixin.get_processor_dict(teacher.model)
        # None: the tokenizer's own template is used.
        self._template: str | None = of_processor.get("chat_template")
        if not (self._template or self._tokenizer.chat_template):
            raise UserError(
                f"teacher.model {teacher.model} has no chat template; use a chat (Instruct) model, with its "
                "processor's files"
            )
        tags = tags_of_texts(teacher.instruction, teacher.system_prompt)
        self._special = special_in_text(self._tokenizer, tags)
        self._check_template()

    def request(self, question: Question, frames: Sequence[np.ndarray]) -> Request:
        """The prompt, in token ids, and the frames.

        Raises:
            PromptTooLong: longer than teacher.max_prompt_tokens even if a frame were one token.
        """
        text, limit = self.text(question, len(frames)), self._teacher.max_prompt_tokens
        _refuse_long_text(question, text, limit)
        token_ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(token_ids) > limit:
            raise _too_long(question, f"{len(token_ids)} tokens", limit)
        return Request(token_ids=tuple(token_ids), images=tuple(frames))

    def text(self, question: Question, num_frames: int) -> str:
        """The prompt as text, with one placeholder for each frame."""
        text = question_text(question, self._teacher.instruction, self._data.replace_video_by_audio)
        system_prompt = broken_up(self._special, self._teacher.system_prompt)
        messages = _messages(system_prompt, broken_up(self._special, text), num_frames)
        rendered = self._tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(rendered, str), "tokenize=False gives text"
        return rendered

    def _check_template(self) -> None:
        question = Question("", "Which sounds?", "")
        model, system_prompt = self._teacher.model, self._teacher.system_prompt
        try:
            none, one, two = (self.text(question, num) for num in range(3))
        except TemplateError as error:
            raise UserError(
                f"the chat template of teacher.model {model} refuses the prompt: {error}; check teacher.system_prompt, "
                "which some templates allow none of"
            ) from error
        if not len(none) < len(one) < len(two):
            raise UserError(
                f"the chat template of teacher.model {model} writes nothing for an image, so it is no vision model; "
                "give one that vLLM serves with several images, such as Qwen/Qwen2.5-VL-32B-Instruct"
            )
        for name, text in (("question", question.text), ("teacher.system_prompt", system_prompt)):
            if broken_up(self._special, text).strip() not in one:  # some templates trim it
                raise UserError(f"the chat template of teacher.model {model} leaves out the {name}; use another model")


class EndpointPrompt:
    """Builds the messages of an OpenAI-compatible server, whose client puts the frames in their places."""

    def __init__(self, teacher: TeacherConfig, data: DataConfig) -> None:
        self._teacher, self._data = teacher, data
        self._tags = tags_of_texts(teacher.instruction, teacher.system_prompt)

    def request(self, question: Question, frames: Sequence[np.ndarray]) -> Request:
        """The messages and the frames.

        Raises:
            PromptTooLong: certainly longer than teacher.max_prompt_tokens.
        """
        text = self._text(question)
        _refuse_long_text(question, text, self._teacher.max_prompt_tokens)
        messages = _messages(self._without_special(self._teacher.system_prompt), text, len(frames))
        return Request(messages=tuple(messages), images=tuple(frames))

    def text(self, question: Question, num_frames: int) -> str:
        """The messages as text, for people."""
        system = f"system: {self._teacher.system_prompt}\n" * bool(self._teacher.system_prompt)
        return f"{system}user: {'[frame] ' * num_frames}{self._text(question)}"

    def _text(self, question: Question) -> str:
        text = question_text(question, self._teacher.instruction, self._data.replace_video_by_audio)
        return self._without_special(text)

    def _without_special(self, text: str) -> str:
        return _LOOKS_SPECIAL.sub(
            lambda found: found[0] if found[0] in self._tags else f"{found[0][0]} {found[0][1:]}", text
        )


VisionPrompt = EnginePrompt | EndpointPrompt


def vision_prompt(teacher: TeacherConfig, data: DataConfig) -> VisionPrompt:
    """The prompts of the teacher that the settings name."""
    return EndpointPrompt(teacher, data) if teacher.endpoint.url else EnginePrompt(teacher, data)


def _messages(system_prompt: str, text: str, num_frames: int) -> list[dict[str, Any]]:
    """A list of parts in every message: templates of vision models read no plain text."""
    content = [*[{"type": "image"}] * num_frames, {"type": "text", "text": text}]
    system = {"role": "system", "content": [{"type": "text", "text": system_prompt}]}
    return [*([system] if system_prompt else []), {"role": "user", "content": content}]


def _refuse_long_text(question: Question, text: str, limit: int) -> None:
    """Raises `PromptTooLong` for a text that has more tokens than the limit, whatever the tokenizer."""
    if len(text) > _CHARACTERS_PER_TOKEN * limit:
        raise _too_long(question, f"{len(text)} characters", limit)


def _too_long(question: Question, length: str, limit: int) -> PromptTooLong:
    return PromptTooLong(
        f"question {question.id}: the teacher's prompt has {length}, more than teacher.max_prompt_tokens={limit} "
        "allows; raise it, or shorten the question"
    )


def _tokenizer(model: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"teacher.model {model}: its tokenizer cannot be loaded ({reason}); give a whole model folder"
        ) from error
