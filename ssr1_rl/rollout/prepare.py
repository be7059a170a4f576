"""Question -> prompt and clips ready for the engines. A clip is decoded and put in the object store once while kept."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import ray

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.types import AudioRef, PreparedQuestion, Question


@dataclass(frozen=True)
class _StoredClip:
    """A decoded clip in the object store."""

    waveform: ray.ObjectRef[np.ndarray]
    num_samples: int
    num_bytes: int


class Preparer:
    """Keeps up to `data.audio_cache_mib` of decoded clips and drops the least recently used ones first."""

    def __init__(self, builder: PromptBuilder, config: DataConfig) -> None:
        self._builder, self._config = builder, config
        self._clips: OrderedDict[AudioRef, asyncio.Task[_StoredClip]] = OrderedDict()
        self._num_bytes = 0

    async def prepare(self, question: Question) -> PreparedQuestion:
        """Decodes (in a thread) the clips that are not kept, and builds the prompt.

        Raises:
            AudioError, PromptTooLong: the question cannot be used; the message says why.
        """
        clips = [await self._clip(ref) for ref in question.audio]
        return self._builder.prepare(question, [c.waveform for c in clips], [c.num_samples for c in clips])

    async def _clip(self, ref: AudioRef) -> _StoredClip:
        if ref not in self._clips:
            # The task is kept, not its result: questions that need the same clip at the same time share one decoding.
            self._clips[ref] = asyncio.create_task(self._decode(ref))
        self._clips.move_to_end(ref)
        return await asyncio.shield(self._clips[ref])

    async def _decode(self, ref: AudioRef) -> _StoredClip:
        config = self._config
        waveform = await asyncio.to_thread(
            load_waveform, ref, max_audio_s=config.max_audio_s, long_audio=config.long_audio
        )
        clip = _StoredClip(ray.put(waveform), len(waveform), waveform.nbytes)
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
