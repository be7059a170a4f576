"""Log-mel features of clips, computed once per rank and clip."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.trainer.batches.byte_cache import ByteCache

MEL_CACHE_BYTES = 512 * 2**20
"""Log-mel features kept unless told otherwise; a 10 s clip takes 0.5 MB."""


class ClipFeatures:
    """Log-mel features by clip, computed once and kept within `max_bytes`.

    Attributes:
        family: the model's audio family.
    """

    def __init__(
        self, model_path: str, fetch_waveform: Callable[[Any], np.ndarray], max_bytes: int = MEL_CACHE_BYTES
    ) -> None:
        self._extract = MelExtractor(model_path)
        self.family = self._extract.family
        self._fetch = fetch_waveform
        self._kept = ByteCache(max_bytes)

    def __call__(self, handle: Any) -> tuple[Any, Tensor, int]:
        """A key of the clip, its log-mel [num_mel_bins, frames + margin], and its number of frames."""
        key = clip_key(handle)
        entry = self._kept.get(key)
        if entry is None:
            waveform = self._fetch(handle)
            entry = torch.from_numpy(self._extract(waveform)), self.family.num_mel_frames(len(waveform))
            if can_be_kept(handle):
                self._kept.put(key, entry)
        return key, *entry

    def num_frames(self, handle: Any) -> int:
        """Mel frames of a clip, told without computing them."""
        entry = self._kept.get(clip_key(handle))
        return entry[1] if entry else self.family.num_mel_frames(len(self._fetch(handle)))


def clip_key(handle: Any) -> Any:
    """Names a clip: an object reference's hex, not the reference itself, which would pin the waveform."""
    return handle.hex() if can_be_kept(handle) else id(handle)


def can_be_kept(handle: Any) -> bool:
    """Whether the clip's key outlives its handle."""
    return hasattr(handle, "hex")
