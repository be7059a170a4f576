"""Log-mel features of clips, computed once per rank and clip."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.data.prompt import MelExtractor, num_mel_frames

MEL_CACHE_BYTES = 512 * 2**20
"""Log-mel features kept per rank; a 10 s clip takes 0.5 MB."""


class ClipFeatures:
    """Log-mel features by clip, computed once and kept within `MEL_CACHE_BYTES` (least recently used go first)."""

    def __init__(self, model_path: str, fetch_waveform: Callable[[Any], np.ndarray]) -> None:
        self._extract = MelExtractor(model_path)
        self._fetch = fetch_waveform
        self._kept: OrderedDict[Any, tuple[Any, Tensor, int]] = OrderedDict()
        self._num_bytes = 0

    def __call__(self, handle: Any) -> tuple[Any, Tensor, int]:
        """A key of the clip, its log-mel [num_mel_bins, frames + margin], and its number of frames."""
        # An object reference's hex, not the reference itself: a kept reference would pin the waveform.
        key = handle.hex() if hasattr(handle, "hex") else id(handle)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        waveform = self._fetch(handle)
        mel = torch.from_numpy(self._extract(waveform))
        entry = (key, mel, num_mel_frames(len(waveform)))
        if hasattr(handle, "hex"):
            self._keep(key, entry)
        return entry

    def _keep(self, key: Any, entry: tuple[Any, Tensor, int]) -> None:
        self._kept[key] = entry
        self._num_bytes += entry[1].nbytes
        while self._num_bytes > MEL_CACHE_BYTES:
            _, (_, mel, _) = self._kept.popitem(last=False)
            self._num_bytes -= mel.nbytes
