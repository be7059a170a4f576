"""Decodes with FFmpeg, through PyAV: the sound of videos, AAC, WMA, AMR, and all else that libsndfile does not know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.errors import AudioError
from ssr1_rl.data.decode.mono import MAX_RATE, MonoSamples

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

NO_PROTOCOL = {"protocol_whitelist": "none"}
"""No protocol: a playlist, a concat script or a reference movie can open neither another file nor an address."""

_STATES_LENGTH = ("mov", "tta", "wv", "flac")
"""Formats whose header states the length of the sound. For others FFmpeg estimates it, or it is that of the video."""

_HALF_RANGE = {"u1": 2**7, "i2": 2**15, "i4": 2**31}
"""Largest magnitude of whole-number samples."""


def decode_media_file(file: ClipFile, wanted_s: float, use_truncated: bool) -> MonoSamples:
    """Decodes the first `wanted_s` and a margin of the audio stream that players choose: the default, or the first one.

    Raises:
        AudioError: no audio stream, no decoder for it, truncated, or with an impossible sampling rate.
        Exception: whatever PyAV raises for a corrupt file.
    """
    import av

    # Titles and comments need not be UTF-8, and are not used.
    with av.open(file, "r", metadata_errors="ignore", options=NO_PROTOCOL) as container:
        stream = _audio_stream(file, container)
        frames = container.decode(stream)
        first = next(frames, None)
        # The rate of the stream may be half that of its frames (HE-AAC).
        samples = MonoSamples.at_rate(file, first.sample_rate if first else MAX_RATE, wanted_s)
        if container.format.name.startswith(_STATES_LENGTH) and stream.duration and stream.time_base:
            samples.promised_s = float(stream.duration * stream.time_base)
        try:
            _add(file, chain([first] if first else [], frames), samples)
        except av.FFmpegError as error:
            if not use_truncated:
                raise samples.broken(file, error) from error
    if not use_truncated:
        samples.check_length(file)
    return samples


def _audio_stream(file: ClipFile, container: InputContainer) -> AudioStream:
    from av.stream import Disposition

    streams = container.streams.audio
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise AudioError(f"{file.path}: has no audio stream (it has {kinds}); leave its row out")
    stream = next((s for s in streams if s.disposition & Disposition.default), streams[0])
    # PyAV says that it always has one, but it has none without a decoder.
    if getattr(stream, "codec_context", None) is None:
        raise AudioError(
            f"{file.path}: PyAV has no decoder for its sound ({_codec_name(container, stream)}); "
            "convert it to .flac or .wav"
        )
    return stream


def _codec_name(container: InputContainer, stream: AudioStream) -> str:
    """The codec by FFmpeg's own description of the file: PyAV has no name for a codec that it cannot decode."""
    import av

    # FFmpeg writes the description to its log, which PyAV switches off.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        description = cast("Any", container).dumps_format()
    finally:
        av.logging.set_level(level)
    found = re.search(rf"#0:{stream.index}\b.*?: Audio: ([^,\n]+)", description)
    return found[1] if found else "unknown"


def _add(file: ClipFile, frames: Iterable[AudioFrame], samples: MonoSamples) -> None:
    start_s = 0.0
    for frame in frames:
        if frame.sample_rate != samples.rate:
            raise AudioError(
                f"{file.path}: its sampling rate changes from {samples.rate} to {frame.sample_rate} Hz; "
                "encode the clip again"
            )
        if frame.samples:
            start_s = start_s if samples.num_samples else frame.time or 0.0
            samples.add(_as_floats(frame))
            # Packets that were lost in a recording leave a gap between time stamps; such a file is whole.
            samples.reached_s = (frame.time or 0.0) - start_s + frame.samples / samples.rate
        if samples.full:
            return


def _as_floats(frame: AudioFrame) -> np.ndarray:
    """float32 [num_frames, num_channels] from -1 to 1, by the factors of FFmpeg's own conversion."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    half = _HALF_RANGE[values.dtype.str[1:]]
    floats = values.astype(np.float32) / np.float32(half)
    return floats - np.float32(1) if values.dtype.kind == "u" else floats
