"""Decodes frames of a video with FFmpeg, through PyAV: seeks to the wanted ones, and ignores the sound."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import av
import numpy as np

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.media_file import NO_PROTOCOL
from ssr1_rl.data.decode.pictures import MAX_PIXELS, VideoError, check_size, fitted
from ssr1_rl.data.decode.whole import missing_end

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_OPTIONS = NO_PROTOCOL | {"max_pixels": str(MAX_PIXELS)}

_SEEK_FROM_S = 1.0
"""How far ahead a frame must be for a seek: a nearer one is reached sooner by decoding."""

_LENGTH_SLACK_S = 1.0
"""How far the last wanted frame may be behind the last frame that there is, without a new look at the length."""


def decode_video(file: ClipFile, frames_per_s: float, max_frames: int, longest: int) -> list[np.ndarray]:
    """The frames that are shown in the middles of equally long parts of the video; see `data.frames.load_frames`.

    Raises:
        VideoError: truncated, without pictures or their times, or with too large ones.
        Exception: whatever PyAV raises for a corrupt file.
    """
    if missing := missing_end(file):
        raise VideoError(f"{file.path}: truncated, {missing}; fetch it again or leave its row out")
    with _opened(file) as (container, stream):
        length_s = _stated_length_s(container, stream)
    if not length_s:
        length_s = _counted_length_s(file)
    frames, seen_s = _frames(file, length_s, frames_per_s, max_frames, longest)
    if seen_s < length_s:
        # The header promises more than there is, or sound goes on after the pictures.
        frames, _ = _frames(file, seen_s, frames_per_s, max_frames, longest)
    return frames


def _frames(
    file: ClipFile, length_s: float, frames_per_s: float, max_frames: int, longest: int
) -> tuple[list[np.ndarray], float]:
    """Frames spread over the length, and the length of the pictures, if it is found to be much smaller."""
    num = max(1, min(max_frames, round(length_s * frames_per_s)))
    found: list[np.ndarray] = []
    with _opened(file) as (container, stream):
        player = _Player(file, container, stream)
        start_s = last_s = player.shown_s
        for part in range(num):
            wanted_s = start_s + (part + 0.5) * length_s / num
            frame = player.at(wanted_s)
            if player.ended and player.shown_s + _LENGTH_SLACK_S + player.interval_s < wanted_s:
                return found, player.shown_s + player.interval_s - start_s
            if part == 0 or player.shown_s > last_s:
                found.append(_pixels(file, frame, longest))
            last_s = player.shown_s
    return found, length_s


class _Player:
    """Goes forward through a video, and knows the frame that is shown.

    Attributes:
        shown_s: time stamp of the frame that is shown, in seconds.
        interval_s: time between two frames, by the header.
    """

    def __init__(self, file: ClipFile, container: InputContainer, stream: VideoStream) -> None:
        self._file, self._container, self._stream = file, container, stream
        self._can_seek = True
        self.interval_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
        self._frames = container.decode(stream)
        first = next(self._frames, None)
        if first is None:
            raise VideoError(f"{file.path}: holds no frame; fetch it again or leave its row out")
        self._shown, self.shown_s = first, self._time_s(first)
        self._following = next(self._frames, None)

    @property
    def ended(self) -> bool:
        """Whether no frame follows."""
        return self._following is None

    def at(self, time_s: float) -> VideoFrame:
        """The frame that is shown at `time_s`, which is not before the time of the last call."""
        following = self._following
        if self._can_seek and following and self._time_s(following) + _SEEK_FROM_S < time_s:
            self._seek(time_s)
        while self._following is not None and self._time_s(self._following) <= time_s:
            self._show(self._following)
        return self._shown

    def _show(self, frame: VideoFrame) -> None:
        self._shown, self.shown_s = frame, self._time_s(frame)
        self._following = next(self._frames, None)

    def _seek(self, time_s: float) -> None:
        before_s = self.shown_s
        try:
            self._go_to(time_s)
        except av.FFmpegError:  # the format has no seeking
            self._can_seek = False
            return
        first = next(self._frames, None)
        if first is None or self._time_s(first) > time_s:
            # Formats without an index may land too late.
            self._go_to(0.0)
            first = next(self._frames, None)
        if first is None:
            raise VideoError(f"{self._file.path}: corrupt, no frame can be read after a seek; encode it again")
        self._show(first)
        # Where key frames are further apart than the wanted ones, each seek would go back.
        self._can_seek = self.shown_s > before_s

    def _go_to(self, time_s: float) -> None:
        """Seeks to the last key frame that is not after `time_s`."""
        assert self._stream.time_base is not None, "a stream that was decoded has a unit of time"
        self._container.seek(int(time_s / self._stream.time_base), stream=self._stream)
        self._frames = self._container.decode(self._stream)

    def _time_s(self, frame: VideoFrame) -> float:
        if frame.pts is None:
            raise VideoError(
                f"{self._file.path}: its frames have no times, so none can be chosen; put them into a container, such "
                "as: ffmpeg -i FILE -c copy FILE.mp4"
            )
        return frame.time


@contextmanager
def _opened(file: ClipFile) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The video, and the stream of it that players choose: the default, or the first one. A cover is no video."""
    from av.stream import Disposition

    file.seek(0)
    with av.open(file, "r", metadata_errors="ignore", options=_OPTIONS) as container:
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            cover = ", besides a cover picture" * bool(container.streams.video)
            raise VideoError(f"{file.path}: has no video stream (it has {kinds}{cover}); leave its row out")
        stream = next((s for s in streams if s.disposition & Disposition.default), streams[0])
        # PyAV says that it always has one, but it has none without a decoder.
        if getattr(stream, "codec_context", None) is None:
            raise VideoError(f"{file.path}: PyAV has no decoder for its pictures; convert it to H.264 in .mp4")
        codec = stream.codec_context
        if codec.width or codec.height:
            check_size(file.path, codec.width, codec.height)
        codec.options = {"max_pixels": str(MAX_PIXELS)}
        codec.thread_count = 1  # many rows are decoded side by side
        yield container, stream


def _stated_length_s(container: InputContainer, stream: VideoStream) -> float:
    """The length by the header, 0 if it does not say."""
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0, container.duration or 0) / av.time_base


def _counted_length_s(file: ClipFile) -> float:
    """The length by the times of the packets, none of which is decoded: a live recording does not state it."""
    with _opened(file) as (container, stream):
        ends = [
            float((packet.pts + (packet.duration or 0)) * packet.time_base)
            for packet in container.demux(stream)
            if packet.pts is not None
        ]
    return max(0.0, max(ends) - min(ends)) if ends else 0.0


def _pixels(file: ClipFile, frame: VideoFrame, longest: int) -> np.ndarray:
    """uint8 [height, width, 3], scaled down and turned as the file says."""
    check_size(file.path, frame.width, frame.height)
    width, height = fitted(frame.width, frame.height, longest)
    small = frame.reformat(width, height, "rgb24", interpolation="AREA")
    return np.ascontiguousarray(np.rot90(small.to_ndarray(), round(frame.rotation / 90)))
