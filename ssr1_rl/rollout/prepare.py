"""Question -> prompt and clips ready for the engines. A clip is decoded once and put into the object store once."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import ray

from ssr1_rl.config.schema import DataConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.prompt import PromptBuilder, num_audio_tokens, num_mel_frames
from ssr1_rl.types import AudioRef, PreparedQuestion, Question


@dataclass(frozen=True)
class _Clip:
    """A decoded clip in the object store."""

    handle: ray.ObjectRef
    num_samples: int
    num_bytes: int


class Preparer:
    """Keeps decoded clips up to `data.audio_cache_mib`; the least recently used go first."""

    def __init__(self, builder: PromptBuilder, config: DataConfig) -> None:
        self._builder = builder
        self._config = config
        self._clips: OrderedDict[AudioRef, asyncio.Task[_Clip]] = OrderedDict()
        self._num_bytes = 0

    async def prepare(self, question: Question) -> PreparedQuestion:
        """Decodes (in a thread) what is not kept, and tokenizes.

        Raises:
            AudioError, PromptTooLong: the question cannot be used; the message says why.
        """
        clips = [await self._clip(ref) for ref in question.audio]
        token_ids = self._builder.token_ids(question, [clip.num_samples for clip in clips])
        lengths = tuple(num_audio_tokens(num_mel_frames(clip.num_samples)) for clip in clips)
        return PreparedQuestion(question, token_ids, tuple(clip.handle for clip in clips), lengths)

    async def _clip(self, ref: AudioRef) -> _Clip:
        if ref not in self._clips:
            # The task is kept, not its result: questions that ask for a clip at once share one decoding.
            self._clips[ref] = asyncio.create_task(self._decode(ref))
        self._clips.move_to_end(ref)
        return await asyncio.shield(self._clips[ref])

    async def _decode(self, ref: AudioRef) -> _Clip:
        config = self._config
        waveform = await asyncio.to_thread(
            load_waveform, ref, max_audio_s=config.max_audio_s, long_audio=config.long_audio
        )
        clip = _Clip(ray.put(waveform), len(waveform), waveform.nbytes)
        self._num_bytes += clip.num_bytes
        self._drop_oldest()
        return clip

    def _drop_oldest(self) -> None:
        for ref, task in list(self._clips.items()):
            if self._num_bytes <= self._config.audio_cache_mib * 2**20:
                return
            if task.done() and not task.cancelled() and task.exception() is None:
                self._num_bytes -= task.result().num_bytes
                del self._clips[ref]
