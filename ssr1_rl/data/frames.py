"""Frames of a question's silent video, or its stills, for a teacher that sees: uint8 [height, width, 3], in order.

The content decides who decodes a file, never its name, and nothing but the file itself is opened (see `ClipFile`). What
cannot be used raises a `VideoError` with the file, the reason and the fix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.errors import AudioError
from ssr1_rl.data.decode.pictures import MAX_PIXELS, VideoError
from ssr1_rl.data.decode.still_file import decode_still
from ssr1_rl.data.decode.video_file import decode_video
from ssr1_rl.types import VideoRef

__all__ = ["MAX_PIXELS", "VideoError", "load_frames"]

T = TypeVar("T")


def load_frames(ref: VideoRef, *, frames_per_s: float, max_frames: int, frame_size: int) -> list[np.ndarray]:
    """Frames of the middles of equally long parts of the video, or stills spread evenly over those there are.

    There are `frames_per_s` parts a second, at least one and at most `max_frames`. A frame that is shown in several
    parts is given once, so a video with fewer frames gives fewer. Of stills, up to `max_frames` are given.

    Args:
        ref: the file, or the stills.
        frames_per_s: frames of a second of video.
        max_frames: most frames.
        frame_size: longest edge of a frame in pixels; larger ones are scaled down, and none is scaled up.

    Raises:
        VideoError: a file is missing, empty, truncated, corrupt, without pictures, or with too large ones. Whatever a
            decoder raises is turned into this.
    """
    if ref.path:
        return _read(ref.path, lambda file: decode_video(file, frames_per_s, max_frames, frame_size))
    num = min(max_frames, len(ref.stills))
    chosen = [ref.stills[(2 * part + 1) * len(ref.stills) // (2 * num)] for part in range(num)]
    return [_read(path, lambda file: decode_still(file, frame_size)) for path in chosen]


def _read(path: str, decode: Callable[[ClipFile], T]) -> T:
    try:
        with ClipFile(Path(path), "video") as file:
            try:
                return decode(file)
            except VideoError:
                file.check()
                raise
            except Exception as error:  # decoders raise nearly anything on a broken file
                file.check()
                words = str(getattr(error, "strerror", None) or error)
                raise VideoError(
                    f"{file.path}: corrupt, or of an unknown format ({type(error).__name__}: {words}); fetch or encode "
                    "it again"
                ) from error
    except AudioError as error:  # of the file itself: missing, empty, unreadable
        raise VideoError(str(error)) from error
