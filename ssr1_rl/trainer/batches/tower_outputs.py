"""Outputs of a frozen audio tower: computed once per clip, reused by every pass and by the reference model.

A tower that is not trained gives a clip the same output for ever, and the reference's tower holds the
same weights: both come from `model.path`, and neither moves. What follows the tower, the projector, is
trained, so every pass and either model runs it anew.

The tower runs in passes of its own, before those that train. Under ZeRO-3 each of its layers gathers its
weights from all ranks, so all must run it equally often, whatever each of them has kept: they run as many
passes as the rank that lacks most clips, the others on silence. And they run them through the engine's
forward, where ZeRO-3 expects its layers to be called. Where no rank lacks a clip nothing runs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.byte_cache import ByteCache, Entry
from ssr1_rl.trainer.batches.clip_features import ClipFeatures, can_be_kept, clip_key
from ssr1_rl.trainer.batches.rows import ClipBatch, stack_clips


class TowerOutputs:
    """The outputs by clip, on the host: a device's memory is for passes, and one micro-batch's clips are small there.

    Args:
        clips: log-mel features of clips.
        encode: runs the tower; a collective.
        max_over_ranks: the largest of the ranks' values; a collective.
        num_mel_bins: of the log-mel features.
        max_bytes: what is kept from call to call of `prepare`.
        max_tokens: audio tokens of one pass of the tower, padding included.

    Attributes:
        num_asked, num_encoded: clips that `prepare` was asked for since `take_counts`, and those that the tower ran on.
    """

    def __init__(
        self,
        clips: ClipFeatures,
        encode: Callable[[ClipBatch], Tensor],
        max_over_ranks: Callable[[float], float],
        num_mel_bins: int,
        max_bytes: int,
        max_tokens: int,
    ) -> None:
        self._clips, self._encode = clips, encode
        self._max_over_ranks = max_over_ranks
        self._num_mel_bins, self._max_tokens = num_mel_bins, max_tokens
        self._kept = ByteCache(max_bytes)
        self._current: dict[Any, Entry] = {}
        self.num_asked = self.num_encoded = 0

    def prepare(self, handles: Iterable[Any]) -> None:
        """Has the outputs of these clips, and of no others, at hand for `__call__` (a collective)."""
        wanted = {clip_key(handle): handle for handle in handles}
        self._current = {key: entry for key in wanted if (entry := self._kept.get(key))}
        missing = [handle for key, handle in wanted.items() if key not in self._current]
        self.num_asked += len(wanted)
        self.num_encoded += len(missing)
        passes = list(self._cut(missing))
        # Agreed on before any rank starts: within a pass ranks wait for each other's weights.
        most = int(self._max_over_ranks(len(passes)))
        for part in passes:
            self._compute(part)
        family = self._clips.family
        silence = torch.zeros(self._num_mel_bins, family.min_mel_frames + family.margin_frames)
        for _ in range(most - len(passes)):
            self._run_tower(stack_clips([(silence, family.min_mel_frames)], self._num_mel_bins))

    def __call__(self, handle: Any) -> tuple[Any, Tensor, int]:
        """A key of a prepared clip, its output [D, num_features], and its number of frames."""
        key = clip_key(handle)
        return key, *self._current[key]

    def take_counts(self) -> tuple[int, int]:
        """`num_asked` and `num_encoded`, which start again from 0."""
        counts = self.num_asked, self.num_encoded
        self.num_asked = self.num_encoded = 0
        return counts

    def _cut(self, handles: Sequence[Any]) -> Iterator[list[Any]]:
        """Clips of like length, as many as fit into a pass; one at least."""
        num_audio_tokens = self._clips.family.num_audio_tokens
        lengths = {id(handle): num_audio_tokens(self._clips.num_frames(handle)) for handle in handles}
        part: list[Any] = []
        for handle in sorted(handles, key=lambda handle: lengths[id(handle)], reverse=True):
            if part and (len(part) + 1) * lengths[id(part[0])] > self._max_tokens:
                yield part
                part = []
            part.append(handle)
        if part:
            yield part

    def _compute(self, handles: Sequence[Any]) -> None:
        batch = stack_clips([self._clips(handle)[1:] for handle in handles], self._num_mel_bins)
        outputs = self._run_tower(batch)
        for handle, output, num_frames in zip(handles, outputs, batch.num_mel_frames, strict=True):
            # A copy: a view would keep the whole batch.
            entry = output[: self._clips.family.num_audio_tokens(num_frames)].to("cpu", copy=True).T, num_frames
            self._current[clip_key(handle)] = entry
            if can_be_kept(handle):
                self._kept.put(clip_key(handle), entry)

    def _run_tower(self, batch: ClipBatch) -> Tensor:
        with torch.no_grad():
            return self._encode(batch)
