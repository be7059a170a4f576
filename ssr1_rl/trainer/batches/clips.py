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


ClipKey: TypeAlias = str
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
    """Computes log-mel features and caches them within `max_bytes`, by the clip's key.

    A clip is found again in a later epoch, although the controller may have decoded it anew under another reference.
    """

    def __init__(
        self,
        model_path: str,
        fetch_waveform: Callable[[Clip], np.ndarray],
        max_bytes: int = MEL_CACHE_BYTES,
    ) -> None:
        self._extract = MelExtractor(model_path)
        self.family = self._extract.family
        self._fetch = fetch_waveform
        self._cache = ByteCache(max_bytes)

    def __call__(self, clip: Clip) -> tuple[ClipKey, Tensor, int]:
        """The clip's key, its log-mel [M, frames + margin], and its number of frames."""
        entry = self._cache.get(clip.key)
        if entry is None:
            waveform = self._fetch(clip)
            entry = torch.from_numpy(self._extract(waveform)), self.family.num_mel_frames(len(waveform))
            self._cache.put(clip.key, entry)
        return clip.key, *entry

    def num_frames(self, clip: Clip) -> int:
        """Mel frames of a clip, without computing its features."""
        entry = self._cache.get(clip.key)
        return entry[1] if entry else self.family.num_mel_frames(len(self._fetch(clip)))
