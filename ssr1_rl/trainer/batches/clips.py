"""Log-mel features of clips, the audio tower's input. Each rank caches them.

Shapes: C clips, M mel bins, F frames of the longest clip and its margin.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.types import Clip

MEL_CACHE_BYTES = 512 * 2**20
"""Default size of the cache of log-mel features; a 10 s clip takes 0.5 MB."""


ClipKey: TypeAlias = str | int
Entry: TypeAlias = tuple[Tensor, int]
"""A clip's features, and its number of mel frames."""

FeaturesOf: TypeAlias = Callable[[Clip], tuple[ClipKey, Tensor, int]]
"""Returns a clip's key (the same for the same clip), its features, and its number of mel frames."""


@dataclass(frozen=True)
class ClipBatch:
    """Clips for the audio tower."""

    mel: Tensor  # float32 [C, M, F]: log-mel features, zero-padded; a margin follows each clip
    num_mel_frames: tuple[int, ...]  # [C] frames of each clip, without the margin

    def to(self, device: torch.device) -> "ClipBatch":
        return ClipBatch(self.mel.to(device), self.num_mel_frames)


def stack_clips(clips: Sequence[Entry], num_mel_bins: int) -> ClipBatch:
    """Pads the clips' log-mel features [M, frames + margin] to one length."""
    longest = max((mel.shape[-1] for mel, _ in clips), default=0)
    stacked = torch.zeros(len(clips), num_mel_bins, longest)
    for row, (mel, _) in zip(stacked, clips, strict=True):
        row[:, : mel.shape[-1]] = mel
    return ClipBatch(stacked, tuple(num_frames for _, num_frames in clips))


class ByteCache:
    """Features by clip. Evicts the least recently used ones when their tensors exceed `max_bytes`."""

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


class ClipFeatures:
    """Computes log-mel features and caches them within `max_bytes`.

    `keeps_arrays`: the caller keeps all clips that are arrays, so that their features can be cached.
    """

    def __init__(
        self,
        model_path: str,
        fetch_waveform: Callable[[Clip], np.ndarray],
        max_bytes: int = MEL_CACHE_BYTES,
        keeps_arrays: bool = False,
    ) -> None:
        self._extract = MelExtractor(model_path)
        self.family = self._extract.family
        self._fetch = fetch_waveform
        self._cache, self._keeps_arrays = ByteCache(max_bytes), keeps_arrays

    def __call__(self, handle: Clip) -> tuple[ClipKey, Tensor, int]:
        """The clip's key, its log-mel [M, frames + margin], and its number of frames."""
        key = clip_key(handle)
        entry = self._cache.get(key)
        if entry is None:
            waveform = self._fetch(handle)
            entry = torch.from_numpy(self._extract(waveform)), self.family.num_mel_frames(len(waveform))
            if self._keeps_arrays or can_be_cached(handle):
                self._cache.put(key, entry)
        return key, *entry

    def num_frames(self, handle: Clip) -> int:
        """Mel frames of a clip, without computing its features."""
        entry = self._cache.get(clip_key(handle))
        return entry[1] if entry else self.family.num_mel_frames(len(self._fetch(handle)))


def clip_key(handle: Clip) -> ClipKey:
    """Identifies a clip without holding its reference, which would keep the waveform in memory."""
    return id(handle) if isinstance(handle, np.ndarray) else handle.hex()


def can_be_cached(handle: Clip) -> bool:
    """Whether the clip's key stays unique for the whole run: an array's id may be reused."""
    return not isinstance(handle, np.ndarray)
