"""Question -> prompt and clips, ready for engines and learners. A clip is decoded once while it is kept."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import ray

from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.actors.waits import Waits
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import AudioUnavailable, load_waveform, sample_digest
from ssr1_rl.data.prompt import PromptBuilder
from ssr1_rl.types import AudioRef, Clip, PreparedQuestion, Question, Waveform

RETRY_PAUSES_S = (0.5, 2.0, 8.0)
"""Pauses before a file that could not be read is tried again. Network file systems lose sight of a file for seconds
(NFS caches a name's absence for 3 s and more)."""

MAX_THREADS = 16
"""Most clips that are decoded at the same time."""

READ_LIMIT_S = 120.0
"""Longest time for one try to read a clip: a network file system that hangs would hold every thread for ever."""


@dataclass(frozen=True)
class _StoredClip:
    """A decoded clip in the object store."""

    clip: Clip
    num_samples: int
    num_bytes: int


class Preparer:
    """Keeps up to `data.audio_cache_mib` of decoded clips and drops the least recently used ones first.

    A failure is not kept: the clip is tried again when its question comes back. That is cheap, since a broken file
    fails within its first `data.max_audio_s`, and pauses are made only the first time that a file is missing.

    Args:
        keep: where a waveform is put, and what then stands for it; Ray's object store if it is not given.
    """

    def __init__(
        self,
        builder: PromptBuilder,
        config: DataConfig,
        waits: Waits | None = None,
        keep: Callable[[np.ndarray], Waveform] | None = None,
    ) -> None:
        self._builder, self._config, self._waits, self._keep = builder, config, waits or Waits(), keep or ray.put
        self._threads = asyncio.Semaphore(MAX_THREADS)
        self._clips: OrderedDict[AudioRef, asyncio.Task[_StoredClip]] = OrderedDict()
        self._unavailable: set[AudioRef] = set()
        self._num_bytes = 0

    async def prepare(self, question: Question) -> PreparedQuestion:
        """Decodes (in a thread) the clips that are not kept, and builds the prompt.

        Raises:
            AudioError, PromptTooLong: the question cannot be used; the message says why.
        """
        stored = [await self._clip(ref) for ref in question.audio]
        return self._builder.prepare(question, [s.clip for s in stored], [s.num_samples for s in stored])

    async def _clip(self, ref: AudioRef) -> _StoredClip:
        if ref not in self._clips:
            # The task is kept, not its result: questions that need the same clip at the same time share one decoding.
            self._clips[ref] = asyncio.create_task(self._decode(ref))
            self._clips[ref].add_done_callback(lambda task: self._forget_failure(ref, task))
        self._clips.move_to_end(ref)
        return await asyncio.shield(self._clips[ref])

    def _forget_failure(self, ref: AudioRef, task: asyncio.Task[_StoredClip]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._clips.pop(ref, None)

    async def _decode(self, ref: AudioRef) -> _StoredClip:
        waveform, key = await self._load(ref)
        clip = _StoredClip(Clip(key, self._keep(waveform)), len(waveform), waveform.nbytes)
        self._num_bytes += clip.num_bytes
        self._drop_oldest()
        return clip

    async def _load(self, ref: AudioRef) -> tuple[np.ndarray, str]:
        """The waveform and its key; tries again after pauses, unless all tries failed when the clip was last needed."""
        for pause_s in () if ref in self._unavailable else RETRY_PAUSES_S:
            try:
                return await self._read(ref)
            except AudioUnavailable:
                await asyncio.sleep(pause_s)
        try:
            loaded = await self._read(ref)
        except AudioUnavailable:
            self._unavailable.add(ref)
            raise
        self._unavailable.discard(ref)
        return loaded

    async def _read(self, ref: AudioRef) -> tuple[np.ndarray, str]:
        with self._waits.of("clips", f"decoding {ref.path}"):
            async with self._threads:
                # Not `asyncio.timeout`: its TimeoutError could not be told from one of the file system.
                reading = asyncio.ensure_future(in_thread(_load, ref, self._config))
                try:
                    await asyncio.wait([reading], timeout=READ_LIMIT_S)
                    if not reading.done():
                        raise AudioUnavailable(f"{ref.path}: not read within {READ_LIMIT_S:g} s: its storage may hang")
                    return reading.result()
                finally:
                    reading.cancel()  # its thread is left behind

    def _drop_oldest(self) -> None:
        for ref, task in list(self._clips.items()):
            if self._num_bytes <= self._config.audio_cache_mib * 2**20:
                return
            if task.done() and not task.cancelled() and task.exception() is None:
                self._num_bytes -= task.result().num_bytes
                del self._clips[ref]


def _load(ref: AudioRef, config: DataConfig) -> tuple[np.ndarray, str]:
    waveform = load_waveform(
        ref, max_audio_s=config.max_audio_s, long_audio=config.long_audio, truncated_audio=config.truncated_audio
    )
    return waveform, sample_digest(waveform)
