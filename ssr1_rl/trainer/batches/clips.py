"""Inputs of clips for the model's tower: log-mel features, or the pixels of images. Each rank caches them.

Shapes: C clips, K channels (mel bins, or pixels of a square), F length (frames, or squares) of the longest input and
its margin.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.data.inputs import extractor_of
from ssr1_rl.types import Clip

INPUT_CACHE_BYTES = 512 * 2**20
"""Default size of the cache of inputs; a 10 s clip takes 0.5 MB."""


ClipKey: TypeAlias = str
Entry: TypeAlias = tuple[Tensor, int]
"""A clip's input (or the frozen tower's output for it), and the input's length without the margin."""

InputOf: TypeAlias = Callable[[Clip], tuple[ClipKey, Tensor, int]]
"""Returns a clip's key (the same for the same clip) and its `Entry`."""


@dataclass(frozen=True)
class ClipBatch:
    """Clips for the tower."""

    inputs: Tensor  # float32 [C, K, F], zero-padded; a margin follows each input
    input_lengths: tuple[int, ...]  # [C] of each input, without the margin

    def to(self, device: torch.device) -> "ClipBatch":
        return ClipBatch(self.inputs.to(device), self.input_lengths)


def stack_clips(clips: Sequence[Entry], num_channels: int) -> ClipBatch:
    """Pads the clips' inputs [K, length + margin] to one length."""
    longest = max((of_clip.shape[-1] for of_clip, _ in clips), default=0)
    stacked = torch.zeros(len(clips), num_channels, longest)
    for row, (of_clip, _) in zip(stacked, clips, strict=True):
        row[:, : of_clip.shape[-1]] = of_clip
    return ClipBatch(stacked, tuple(length for _, length in clips))


class ByteCache:
    """Entries by clip. Evicts the least recently used ones when their tensors exceed `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[ClipKey, Entry] = OrderedDict()
        self.num_bytes = 0

    def get(self, key: ClipKey) -> Entry | None:
        """Returns the entry, if it is in the cache, and marks it as the most recently used one."""
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def put(self, key: ClipKey, entry: Entry) -> None:
        """Adds an entry under a new key, then evicts."""
        self._entries[key] = entry
        self.num_bytes += entry[0].nbytes
        while self.num_bytes > self._max_bytes:
            _, (tensor, _) = self._entries.popitem(last=False)
            self.num_bytes -= tensor.nbytes


class ClipInputs:
    """Computes clips' inputs and caches them within `max_bytes`, by the clip's key.

    A clip is found again in a later epoch, although the controller may have decoded it anew under another reference.
    """

    def __init__(
        self,
        model_path: str,
        fetch_waveform: Callable[[Clip], np.ndarray],
        max_bytes: int = INPUT_CACHE_BYTES,
    ) -> None:
        self._extract = extractor_of(model_path)
        self.family = self._extract.family
        self._fetch = fetch_waveform
        self._cache = ByteCache(max_bytes)

    def __call__(self, clip: Clip) -> tuple[ClipKey, Tensor, int]:
        """The clip's key, its input [K, length + margin], and the input's length."""
        entry = self._cache.get(clip.key)
        if entry is None:
            waveform = self._fetch(clip)
            entry = torch.from_numpy(self._extract(waveform)), self._extract.input_length(waveform)
            self._cache.put(clip.key, entry)
        return clip.key, *entry

    def input_length(self, clip: Clip) -> int:
        """The length of a clip's input, without computing it."""
        entry = self._cache.get(clip.key)
        return entry[1] if entry else self._extract.input_length(self._fetch(clip))
