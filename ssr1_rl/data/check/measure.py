"""Decodes one clip, or a frame of one video, and says how long it is or what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import AudioError, ClipTooLong, load_waveform, sample_digest
from ssr1_rl.data.frames import VideoError, load_frames
from ssr1_rl.types import SAMPLE_RATE, AudioRef, VideoRef

Media: TypeAlias = AudioRef | VideoRef

_EDGE = 32
"""Longest edge of the frame that is decoded, in pixels."""


@dataclass(frozen=True)
class Measured:
    """What decoding a file gave."""

    seconds: float = 0.0  # of the clip, as far as it is used
    digest: str = ""  # of its samples
    kind: str = ""  # of the finding; empty if there is none
    reason: str = ""


def measure_clip(ref: AudioRef, data: DataConfig) -> Measured:
    """Decodes a clip as a run would."""
    try:
        return _heard(ref, data, "skip")
    except ClipTooLong as error:
        if data.long_audio == "skip":
            return Measured(kind="clip too long", reason=str(error))
        too_long = str(error).rpartition("; ")[0]
    except AudioError as error:
        return Measured(kind="broken clip", reason=str(error))
    try:
        cut = _heard(ref, data, "crop")
    except AudioError as error:  # the file has changed since
        return Measured(kind="broken clip", reason=str(error))
    return Measured(cut.seconds, cut.digest, "clip cut", f"{too_long}: only its beginning is used")


def measure_video(ref: VideoRef) -> Measured:
    """Decodes a frame of a video, or every still."""
    try:
        load_frames(ref, frames_per_s=1.0, max_frames=max(1, len(ref.stills)), frame_size=_EDGE)
    except VideoError as error:
        return Measured(kind="broken video", reason=str(error))
    return Measured()


def _heard(ref: AudioRef, data: DataConfig, long_audio: str) -> Measured:
    waveform = load_waveform(
        ref, max_audio_s=data.max_audio_s, long_audio=long_audio, truncated_audio=data.truncated_audio
    )
    return Measured(len(waveform) / SAMPLE_RATE, sample_digest(waveform))
