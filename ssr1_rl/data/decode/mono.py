"""Mixes decoded blocks to mono as they come, so that memory does not grow with the number of channels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.errors import AudioError

MIN_RATE, MAX_RATE = 1_000, 1_000_000
"""Sampling rates that sound is stored at, in Hz. Any other is a broken header; it would ask for gigabytes."""

MARGIN_S = 1.0
"""Seconds decoded beyond those wanted, for the resampler's filter and to tell that a clip is longer."""

CODEC_SLACK_S = 0.2
"""Seconds by which an intact MP3 or AAC stream may be shorter than its header says (priming, padding, rounding)."""


@dataclass
class MonoSamples:
    """The beginning of a clip, as far as it was decoded."""

    rate: int  # samples per second
    num_wanted: int  # samples to decode
    promised_s: float = 0.0  # length by the header, in seconds; 0 if it is unknown or only estimated
    reached_s: float = 0.0  # where the last decoded sample ends by its time stamp; 0 if there are none
    num_samples: int = 0
    num_bad: int = 0  # values of all channels that are NaN or infinite
    num_values: int = 0  # values of all channels
    _parts: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def at_rate(cls, file: ClipFile, rate: int, wanted_s: float) -> MonoSamples:
        """Room for the first `wanted_s` and the margin.

        Raises:
            AudioError: no sound has this rate.
        """
        if not MIN_RATE <= rate <= MAX_RATE:
            raise AudioError(
                f"{file.path}: corrupt, its header says {rate} samples per second (sound has {MIN_RATE} to "
                f"{MAX_RATE}); encode the clip again"
            )
        return cls(rate, int((wanted_s + MARGIN_S) * rate))

    @property
    def full(self) -> bool:
        """Whether all that is wanted was decoded."""
        return self.num_samples >= self.num_wanted

    def add(self, block: np.ndarray) -> None:
        """Appends float32 [num_frames, num_channels]."""
        self.num_values += block.size
        self.num_bad += block.size - int(np.count_nonzero(np.isfinite(block)))
        self.num_samples += len(block)
        with np.errstate(over="ignore", invalid="ignore"):
            self._parts.append(block.mean(axis=1, dtype=np.float32))

    def check_length(self, file: ClipFile) -> None:
        """Refuses a clip that ends before its header says.

        Raises:
            AudioError: the clip is truncated.
        """
        decoded_s = max(self.num_samples / self.rate, self.reached_s)
        if decoded_s < min(self.promised_s, self.num_wanted / self.rate) - CODEC_SLACK_S:
            raise AudioError(
                f"{file.path}: truncated, {decoded_s:.2f} of {self.promised_s:.2f} promised seconds "
                "could be read; fetch it again, or set data.truncated_audio=use"
            )

    def broken(self, file: ClipFile, error: Exception) -> AudioError:
        """The error for a file whose decoder failed after these samples."""
        words = getattr(error, "strerror", None) or str(error)
        return AudioError(
            f"{file.path}: corrupt or truncated after {self.num_samples / self.rate:.2f} s ({words}); fetch it again, "
            "or set data.truncated_audio=use"
        )

    def join(self) -> np.ndarray:
        """All samples, float32 [num_samples]."""
        return np.concatenate(self._parts) if self._parts else np.zeros(0, np.float32)
