"""Outputs of a frozen tower: computed once per clip, used by every pass and by the reference model.

A frozen tower always gives a clip the same output, and the reference's tower has the same weights. The projector
after the tower is trained, so every pass of either model runs it again.

The tower runs in separate passes, before those that train, through the engine's forward pass as ZeRO-3 requires.
Under ZeRO-3 each layer gathers its weights from all ranks, so every rank must run the same number of passes: that of
the rank that needs the most. Additional passes run on zeros. No pass runs if all ranks have all their clips cached.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ssr1_rl.trainer.batches.balance import cut_padded
from ssr1_rl.trainer.batches.clips import ByteCache, ClipBatch, ClipInputs, ClipKey, Entry, stack_clips
from ssr1_rl.types import Clip


class TowerOutputs:
    """The tower's outputs by clip, in host memory; a micro-batch's share is moved to the device with it.

    Args:
        encode: runs the tower; a collective.
        max_over_ranks: the largest of the ranks' values; a collective.
        max_bytes: size of the cache, which persists between calls of `prepare`.
        max_tokens: most tokens of one pass of the tower, padding included.

    Attributes:
        num_asked: distinct clips that `prepare` was given since the last `take_counts`.
        num_encoded: the clips among them that the tower ran on.
    """

    def __init__(
        self,
        clips: ClipInputs,
        encode: Callable[[ClipBatch], Tensor],
        max_over_ranks: Callable[[float], float],
        num_channels: int,
        max_bytes: int,
        max_tokens: int,
    ) -> None:
        self._clips, self._encode = clips, encode
        self._max_over_ranks = max_over_ranks
        self._num_channels, self._max_tokens = num_channels, max_tokens
        self._cache = ByteCache(max_bytes)
        self._current: dict[ClipKey, Entry] = {}
        self.num_asked = self.num_encoded = 0

    def prepare(self, clips: Iterable[Clip]) -> None:
        """Makes the outputs of these clips, and only these, available to `__call__`; a collective."""
        wanted = {clip.key: clip for clip in clips}
        self._current = {key: entry for key in wanted if (entry := self._cache.get(key))}
        missing = [clip for key, clip in wanted.items() if key not in self._current]
        self.num_asked += len(wanted)
        self.num_encoded += len(missing)
        family = self._clips.family
        lengths = {clip.key: family.num_tokens(self._clips.input_length(clip)) for clip in missing}
        passes = list(cut_padded(missing, lambda clip: lengths[clip.key], self._max_tokens))
        # Ranks agree on it before any of them starts a pass, because they wait for each other's weights within a pass.
        most = int(self._max_over_ranks(len(passes)))
        for part in passes:
            self._compute(part)
        zeros = torch.zeros(self._num_channels, family.min_length + family.margin)
        for _ in range(most - len(passes)):
            self._run_tower(stack_clips([(zeros, family.min_length)], self._num_channels))

    def __call__(self, clip: Clip) -> tuple[ClipKey, Tensor, int]:
        """The key of a prepared clip, its output [D, num_features], and its input's length."""
        return clip.key, *self._current[clip.key]

    def take_counts(self) -> tuple[int, int]:
        """Returns `num_asked` and `num_encoded`, and resets both to 0."""
        counts = self.num_asked, self.num_encoded
        self.num_asked = self.num_encoded = 0
        return counts

    def _compute(self, clips: Sequence[Clip]) -> None:
        batch = stack_clips([self._clips(clip)[1:] for clip in clips], self._num_channels)
        outputs = self._run_tower(batch)
        for clip, output, length in zip(clips, outputs, batch.input_lengths, strict=True):
            # Copied, since a view would keep the whole batch in memory.
            entry = output[: self._clips.family.num_tokens(length)].to("cpu", copy=True).T, length
            self._current[clip.key] = entry
            self._cache.put(clip.key, entry)

    def _run_tower(self, batch: ClipBatch) -> Tensor:
        with torch.no_grad():
            return self._encode(batch)
