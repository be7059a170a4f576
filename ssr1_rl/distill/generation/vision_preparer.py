"""Question -> the teacher's prompt and frames of the video, ready for the learner of a model that sees.

It takes the place of `Preparer` where SFT trains a teacher. The prompt is made by the code that makes a teacher's
requests, so that a teacher is asked what it has learned to answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import lru_cache

from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.engines import EndpointConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.data.frames import VideoError
from ssr1_rl.data.images import ImagePrompts
from ssr1_rl.data.prompt import PromptTooLong
from ssr1_rl.distill.chain_rows import ChainRequest
from ssr1_rl.types import PreparedQuestion, Question

MAX_THREADS = 4
"""Most videos that are decoded at the same time."""


class VisionPreparer:
    """Prepares questions for the learner of the model in `model_path`; `teacher` says how frames are taken and asked.

    Frames are kept within `data.audio_cache_mib`, as clips are.

    Raises:
        UserError: the learner cannot train this model on images, or the model has no chat template for them.
    """

    def __init__(self, model_path: str, teacher: TeacherConfig, data: DataConfig) -> None:
        self._request = ChainRequest(replace(teacher, model=model_path, endpoint=EndpointConfig()), data)
        self._images = ImagePrompts(model_path)
        self._max_prompt_tokens = teacher.max_prompt_tokens
        most_bytes = teacher.max_frames * 3 * teacher.frame_size**2
        num_kept = data.audio_cache_mib * 2**20 // most_bytes
        self._frames = lru_cache(maxsize=num_kept)(self._request.frames)
        self._threads = asyncio.Semaphore(MAX_THREADS)

    async def prepare(self, question: Question) -> PreparedQuestion:
        """Decodes (in a thread) frames of the question's video, and builds the prompt.

        Raises:
            VideoError, PromptTooLong: the question cannot be used; the message says why.
        """
        where = question.source or f"question {question.id}"
        if question.video is None:
            raise VideoError(f"{where}: has no video, which the model is to see; set data.train.video_dir")
        async with self._threads:
            frames = await in_thread(self._frames, question)
        request = self._request.prompt.request(question, frames)
        prepared = self._images.prepare(question, request.token_ids, request.images)
        num_tokens = len(prepared.token_ids) + sum(prepared.num_audio_tokens) - len(prepared.num_audio_tokens)
        if num_tokens > self._max_prompt_tokens:
            raise PromptTooLong(
                f"{where}: the prompt has {num_tokens} tokens, more than teacher.max_prompt_tokens="
                f"{self._max_prompt_tokens}; raise it, shorten the question, or lower teacher.max_frames"
            )
        return prepared


def seeing(config: Config, num_ranks: int) -> VisionPreparer:
    """Prepares questions for a model that sees, in a rank of SFT. The ranks share the memory for frames."""
    data = replace(config.data, audio_cache_mib=config.data.audio_cache_mib // num_ranks)
    return VisionPreparer(config.model.path, config.teacher, data)
