"""Requests and answers in OpenAI's chat format."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ssr1_rl.errors import UserError
from ssr1_rl.inference.request import Answer, Request
from ssr1_rl.types import SAMPLE_RATE

JPEG_QUALITY = 90


class Unreadable(Exception):
    """An answer that is not what the format promises; the same request may succeed again."""


class Refused(Exception):
    """The model gave no answer, and says why."""


def to_body(request: Request, model: str, further: Mapping[str, object]) -> dict[str, object]:
    """The JSON of a request; `further` fields override, and a field that is None is left out.

    Raises:
        UserError: it asks for what no such server does, or its images and clips do not match its messages.
    """
    if request.allowed_token_ids:
        raise UserError("an endpoint cannot be restricted to tokens; use engines (an empty endpoint.url)")
    if not request.messages:
        raise UserError("this stage has no messages for an endpoint; use engines (an empty endpoint.url)")
    images, clips = iter(request.images), iter(request.waveforms)
    sampling = request.distribution
    body: dict[str, object] = {
        "model": model,
        "messages": [_message(message, images, clips) for message in request.messages],
        "max_tokens": request.max_response_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        # Not of OpenAI's own format: sent only if they are wanted.
        "top_k": sampling.top_k or None,
        "min_p": sampling.min_p or None,
        "seed": request.seed if sampling.temperature else None,
    }
    if next(images, None) is not None or next(clips, None) is not None:
        raise UserError("the messages have fewer parts of type image or audio than the request has images and clips")
    return {name: value for name, value in {**body, **further}.items() if value is not None}


def _message(
    message: Mapping[str, object], images: Iterator[np.ndarray], clips: Iterator[np.ndarray]
) -> dict[str, object]:
    content = message["content"]
    if isinstance(content, str):
        return dict(message)
    assert isinstance(content, list | tuple), "the content of a message is a text or a list of parts"
    return {**message, "content": [_part(part, images, clips) for part in content]}


def _part(part: Mapping[str, object], images: Iterator[np.ndarray], clips: Iterator[np.ndarray]) -> Mapping:
    try:
        if part["type"] == "image":
            return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_jpeg(next(images))}"}}
        if part["type"] == "audio":
            return {"type": "input_audio", "input_audio": {"data": _wav(next(clips)), "format": "wav"}}
    except StopIteration:
        raise UserError("the messages have more parts of type image or audio than the request has") from None
    return part


def _jpeg(image: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=JPEG_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _wav(waveform: np.ndarray) -> str:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()


def usage(answer: Mapping[str, Any]) -> tuple[int, int] | None:
    """Tokens of prompt and response, as the server counts them; None if it does not."""
    counts = answer.get("usage")
    if not isinstance(counts, Mapping):
        return None
    numbers = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return (numbers[0], numbers[1]) if isinstance(numbers[0], int) and isinstance(numbers[1], int) else None


def to_answer(key: str, answer: object) -> Answer:
    """The answer of a row in a server's JSON. One that was cut off, by its length or the connection, is "length".

    Raises:
        Unreadable: it is not in OpenAI's format.
        Refused: the model refuses, a filter holds the answer back, or a tool is called.
    """
    try:
        choice = answer["choices"][0]  # type: ignore[index]
        message, reason = choice["message"], choice.get("finish_reason")
        content, refusal = message.get("content"), message.get("refusal")
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise Unreadable(f"the answer has no choices[0].message ({type(error).__name__}: {error})") from None
    if refusal:
        raise Refused(f"the model refuses: {refusal}")
    if reason not in ("stop", "length", None):
        raise Refused(f"the model gave no answer, finish_reason {reason!r}")
    if not isinstance(content, str):
        if reason != "length":  # "length": thinking took all tokens that were allowed
            raise Unreadable(f"the answer has no content, finish_reason {reason!r}")
        content = ""
    num_prompt_tokens, num_tokens = usage(answer) or (0, 0)  # type: ignore[arg-type]
    return Answer(key, content, num_prompt_tokens, num_tokens, "stop" if reason == "stop" else "length")
