"""Rows on their way through an engine: row -> what Ray Data's vLLM stage reads, and what it wrote -> answer.

These functions run in Ray Data's worker processes. What they pass on is wrapped so that Ray Data keeps it as Python
objects: as Arrow columns, the rows of a batch would have to agree in their types, and what one row lacks would be None.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ssr1_rl.errors import Explained
from ssr1_rl.inference.request import Answer, Request, Row, ToRequest
from ssr1_rl.rollout.engine_settings import sampling_fields
from ssr1_rl.types import SAMPLE_RATE

if TYPE_CHECKING:
    from ssr1_rl.rollout.text import ResponseText

ERROR = "__inference_error__"
"""Column in which Ray Data's stages keep why a row failed; they pass such rows on unchanged."""
MAX_ERROR_CHARS = 2000


class _KeepsObjects:
    """Makes the column that it is in one of Python objects, because Arrow does not know the type."""


class _FinalOnly:
    """Arrives in the engine's process as vLLM's `RequestOutputKind.FINAL_ONLY`: importing vLLM takes seconds."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _final_only, ()


def _final_only() -> object:
    from vllm.sampling_params import RequestOutputKind

    return RequestOutputKind.FINAL_ONLY


def to_table(rows: Sequence[Row], start: int) -> pa.Table:
    """One block of rows, numbered from `start`."""
    return pa.table(
        {"index": list(range(start, start + len(rows))), "row": [pickle.dumps(dict(row)) for row in rows]},
        schema=pa.schema([("index", pa.int64()), ("row", pa.binary())]),
    )


class ToEngine:
    """Makes the request of a row; a row that cannot be used goes on with its error."""

    def __init__(self, to_request: ToRequest) -> None:
        self._to_request = to_request

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            fields = engine_fields(self._to_request(pickle.loads(row["row"])))
        except Exception as error:  # a stage's code on a user's data: the row fails, not the stage
            fields = {ERROR: explain(error)}
        return {"_": _KeepsObjects(), "row": b"", **fields}


def engine_fields(request: Request) -> dict[str, Any]:
    """What Ray Data's vLLM stage reads of a row."""
    sampling = sampling_fields(request.distribution, request.max_response_tokens, request.seed)
    sampling |= {"detokenize": False, "output_kind": _FinalOnly()}
    if request.allowed_token_ids:
        allowed = list(request.allowed_token_ids)
        sampling |= {"allowed_token_ids": allowed, "logprob_token_ids": allowed}
    media: dict[str, Any] = {}
    if request.waveforms:
        media["audio"] = [(waveform, SAMPLE_RATE) for waveform in request.waveforms]
    if request.images:
        from PIL import Image

        media["image"] = [Image.fromarray(image) for image in request.images]
    return {
        "tokenized_prompt": list(request.token_ids),
        "multimodal_data": media or None,
        "sampling_params": sampling,
        "is_restricted": bool(request.allowed_token_ids),
    }


class FromEngine:
    """Makes the answer of what an engine generated, without its key."""

    def __init__(self, model_path: str) -> None:
        self._model_path = model_path

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        text, ends = _decoder(self._model_path)
        tokens = [int(token) for token in row["generated_tokens"]]
        # Ray Data's stage drops vLLM's reason. Requests have no stop texts, so only a token can end a response.
        finish_reason = "stop" if tokens and tokens[-1] in ends else "length"
        prefill = text.prefill(row["prompt_token_ids"])
        first = row["logprobs"][0] if row["is_restricted"] else {}
        answer = Answer(
            key="",
            text=text.decode(tokens, finish_reason, prefill),
            num_prompt_tokens=int(row["num_input_tokens"]),
            num_tokens=len(tokens),
            finish_reason=finish_reason,
            first_logprobs={int(token): float(entry["logprob"]) for token, entry in first.items()},
            prefill=prefill,
        )
        return {"index": row["index"], "answer": pickle.dumps(answer)}


@lru_cache(maxsize=1)
def _decoder(model_path: str) -> tuple[ResponseText, set[int]]:
    """The decoder of a model's responses and the tokens with which vLLM ends one."""
    from transformers import AutoTokenizer

    from ssr1_rl.data.response import stop_ids
    from ssr1_rl.rollout.text import ResponseText

    tokenizer = AutoTokenizer.from_pretrained(model_path)
    return ResponseText(tokenizer), stop_ids(model_path, tokenizer)


def explain(error: BaseException) -> str:
    """An error in one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    text = words if isinstance(error, Explained) else f"{type(error).__name__}: {words}"
    return text if len(text) <= MAX_ERROR_CHARS else f"{text[:MAX_ERROR_CHARS]}…"
