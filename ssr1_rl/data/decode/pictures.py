"""Which pictures can be used, and the size that they are given."""

from __future__ import annotations

from pathlib import Path

from ssr1_rl.errors import UserError

MAX_PIXELS = 2**26
"""Pixels of the largest picture that is decoded: twice those of an 8K video. A header may promise more, and would ask
for gigabytes."""

MAX_RATIO = 100
"""Largest ratio of a picture's edges. The processors of some vision models refuse 200."""


class VideoError(UserError):
    """A video or a still that cannot be used; the message gives file, reason and fix."""


def check_size(path: Path, width: int, height: int) -> None:
    """Refuses pictures without a pixel, with too many, and stripes.

    Raises:
        VideoError: with the size.
    """
    if width < 1 or height < 1:
        raise VideoError(f"{path}: its header says {width} x {height} pixels, which is no picture; fetch it again")
    if width * height > MAX_PIXELS:
        raise VideoError(
            f"{path}: {width} x {height} pixels are more than {MAX_PIXELS:,}; scale it down, or leave its row out"
        )
    if max(width, height) > MAX_RATIO * min(width, height):
        raise VideoError(
            f"{path}: {width} x {height} pixels are a stripe, which vision models refuse (one edge is more than "
            f"{MAX_RATIO} times the other); leave its row out"
        )


def fitted(width: int, height: int, longest: int) -> tuple[int, int]:
    """Width and height scaled down so that the longer edge is at most `longest`."""
    scale = min(1.0, longest / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
