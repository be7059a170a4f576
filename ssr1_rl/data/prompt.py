"""A question and its waveforms -> what the model reads. The one place where audio placeholders are handled.

A `PreparedQuestion` carries exactly ONE placeholder token per clip. vLLM expands each of
them itself; the learner does it with `expand_audio_placeholders`. Both get the
same count from `num_audio_tokens(num_mel_frames(num_samples))`, and the learner
gets the same log-mel values from `MelExtractor`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import AutoConfig, AutoFeatureExtractor, AutoTokenizer, ProcessorMixin

from ssr1_rl.types import SAMPLE_RATE, PreparedQuestion, Question

if TYPE_CHECKING:
    from ssr1_rl.config.schema import DataConfig

CHOICE_LINE = "\n({letter}) {choice}"
"""How one choice is put behind the question."""

INSTRUCTION_LINE = "\n{instruction}"
"""How data.instruction is put behind the choices."""

HOP_LENGTH = 160
"""Samples between mel frames: 100 frames a second at 16 kHz."""

MAX_MEL_FRAMES = 3000
"""Frames of the 30 s window of Whisper-like towers; what is longer is cut off by the feature extractor."""

CONV_MARGIN_FRAMES = 2
"""Frames behind a clip's end that the tower's two convolutions reach (dropped again after them)."""


class PromptTooLong(ValueError):
    """A prompt beyond data.max_prompt_tokens; the message names the question's source."""


def num_mel_frames(num_samples: int) -> int:
    """Mel frames of a clip that the attention mask of transformers' processor (and so vLLM) calls valid."""
    return min(-(-num_samples // HOP_LENGTH), MAX_MEL_FRAMES)


def num_audio_tokens(num_mel_frames: int) -> int:
    """Tokens the audio tower makes of so many valid mel frames: halved by a convolution, then by pooling."""
    return ((num_mel_frames - 1) // 2 + 1 - 2) // 2 + 1


def expand_audio_placeholders(token_ids: Sequence[int], placeholder_id: int, lengths: Sequence[int]) -> list[int]:
    """Repeat the i-th placeholder `lengths[i]` times, as vLLM does inside.

    Raises:
        ValueError: the number of placeholders is not the number of clips (an expanded prompt, for example).
    """
    num_found = sum(token == placeholder_id for token in token_ids)
    if num_found != len(lengths):
        raise ValueError(
            f"found {num_found} audio placeholders for {len(lengths)} clips; "
            "give a prompt as PromptBuilder builds it, with one placeholder per clip and no response"
        )
    remaining = iter(lengths)
    expanded: list[int] = []
    for token in token_ids:
        expanded.extend([token] * next(remaining) if token == placeholder_id else [token])
    return expanded


def choice_lines(question: Question) -> list[str]:
    """The lines that put the choices behind the question, such as `(A) one`, each with its line break in front."""
    return [
        CHOICE_LINE.format(letter=chr(ord("A") + position), choice=choice)
        for position, choice in enumerate(question.choices)
    ]


class PromptBuilder:
    """Builds prompts with a model's own chat template; decodes its responses.

    The processor is not loaded: Qwen2.5-Omni's wants torchvision, for videos.

    Attributes:
        tokenizer: the model's tokenizer.
        takes_audio: whether the model reads clips (else it is a text-only model).
    """

    def __init__(self, model_path: str, data: DataConfig) -> None:
        self.tokenizer: Any = AutoTokenizer.from_pretrained(model_path)
        config = AutoConfig.from_pretrained(model_path)
        # Of a whole Qwen2.5-Omni it is the thinker that listens.
        self._placeholder_id = getattr(getattr(config, "thinker_config", config), "audio_token_id", None)
        self.takes_audio = self._placeholder_id is not None
        self._model_path = model_path
        self._data = data
        of_processor, _ = ProcessorMixin.get_processor_dict(model_path)
        self._template = of_processor.get("chat_template") or self.tokenizer.chat_template
        if not self._template:
            raise ValueError(f"{model_path} has no chat template; use a chat (Instruct) model")
        self._forbidden = _forbidden_in_text(self.tokenizer)

    @property
    def audio_placeholder_id(self) -> int:
        """Token id of the placeholder that stands for a clip."""
        if self._placeholder_id is None:
            raise ValueError(f"{self._model_path} is a text-only model and has no audio placeholder")
        return self._placeholder_id

    def build(self, question: Question, waveforms: Sequence[np.ndarray]) -> PreparedQuestion:
        """The prompt of one question.

        Args:
            waveforms: float32 [num_samples] at 16 kHz, one for each of `question.audio`.

        Raises:
            PromptTooLong: longer than data.max_prompt_tokens, audio tokens included.
            ValueError: clips do not fit the question or the model.
        """
        num_samples = [len(waveform) for waveform in waveforms]
        lengths = tuple(num_audio_tokens(num_mel_frames(samples)) for samples in num_samples)
        return PreparedQuestion(question, self.token_ids(question, num_samples), tuple(waveforms), lengths)

    def token_ids(self, question: Question, num_samples: Sequence[int]) -> tuple[int, ...]:
        """The prompt's tokens alone, from the number of samples of each clip; see `build`."""
        where = question.source or f"question {question.id}"
        if len(num_samples) != len(question.audio):
            raise ValueError(f"{where}: got {len(num_samples)} waveforms for {len(question.audio)} clips")
        if num_samples and not self.takes_audio:
            raise ValueError(f"{where}: the question has audio, but {self._model_path} is a text-only model")
        token_ids = self._encode(question, len(num_samples))
        num_tokens = len(token_ids)
        if self.takes_audio:
            lengths = [num_audio_tokens(num_mel_frames(samples)) for samples in num_samples]
            num_tokens = len(expand_audio_placeholders(token_ids, self.audio_placeholder_id, lengths))
        if num_tokens > self._data.max_prompt_tokens:
            raise PromptTooLong(
                f"{where}: the prompt has {num_tokens} tokens, more than data.max_prompt_tokens="
                f"{self._data.max_prompt_tokens}; raise it, shorten the question, or lower data.max_audio_s"
            )
        return tuple(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """A response as text, special tokens left out."""
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def user_text(self, question: Question) -> str:
        """What the user's message says besides the clips; no special token can hide in it."""
        text = question.text
        if self._data.replace_video_by_audio:
            text = text.replace("video", "audio").replace("Video", "Audio")
        text += "".join(choice_lines(question))
        if self._data.instruction:
            text += INSTRUCTION_LINE.format(instruction=self._data.instruction)
        return self._neutralise(text)

    def _encode(self, question: Question, num_clips: int) -> list[int]:
        """Token ids with one placeholder per clip."""
        text = self.user_text(question)
        messages: list[dict[str, Any]] = []
        if self._data.system_prompt:
            messages.append({"role": "system", "content": self._neutralise(self._data.system_prompt)})
        if self.takes_audio:
            # Templates look for the key `audio_url` or for the type; the address itself is not read.
            clips = [{"type": "audio", "audio_url": ""} for _ in range(num_clips)]
            messages.append({"role": "user", "content": [*clips, {"type": "text", "text": text}]})
        else:
            messages.append({"role": "user", "content": text})
        rendered = self.tokenizer.apply_chat_template(
            messages, chat_template=self._template, tokenize=False, add_generation_prompt=True
        )
        return self.tokenizer(rendered, add_special_tokens=False)["input_ids"]

    def _neutralise(self, text: str) -> str:
        """Break up special tokens spelt out in a text, so that data can neither add a clip nor end a turn."""
        return self._forbidden.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)


def _forbidden_in_text(tokenizer: Any) -> re.Pattern[str]:
    """Matches every special token. Tags such as `<think>` are ordinary tokens in models that know them, and stay."""
    added = tokenizer.added_tokens_decoder.values()
    tokens = [t.content for t in added if t.special or (t.content.startswith("<|") and t.content.endswith("|>"))]
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


class MelExtractor:
    """Waveform -> log-mel features, as the model's own feature extractor gives them, without its 30 s of padding.

    Only as much silence is put behind the clip as its last frames can see. More of it would
    change nothing: silence is the log-mel floor, so it never raises the maximum that Whisper's
    normalisation (maximum - 8, then clamp) takes over all frames.
    """

    def __init__(self, model_path: str) -> None:
        self._extractor: Any = AutoFeatureExtractor.from_pretrained(model_path)
        if self._extractor.sampling_rate != SAMPLE_RATE or self._extractor.hop_length != HOP_LENGTH:
            raise ValueError(
                f"{model_path}: its feature extractor wants {self._extractor.sampling_rate} Hz and hops of "
                f"{self._extractor.hop_length} samples; only {SAMPLE_RATE} Hz and {HOP_LENGTH} are supported"
            )

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float32 [num_samples] -> float32 [num_mel_bins, num_mel_frames + CONV_MARGIN_FRAMES], at most 3000 frames.

        The margin frames are what the 30 s padded extractor has there (silence after the clip's tail).
        """
        num_frames = min(num_mel_frames(len(waveform)) + CONV_MARGIN_FRAMES, MAX_MEL_FRAMES)
        # The last frame's window reaches 200 samples on, and the extractor drops one frame and mirrors the end.
        padded_length = min((num_frames + 2) * HOP_LENGTH, self._extractor.n_samples)
        features = self._extractor(
            waveform, sampling_rate=SAMPLE_RATE, max_length=padded_length, padding="max_length", return_tensors="np"
        )
        return np.ascontiguousarray(features["input_features"][0][:, :num_frames], dtype=np.float32)
