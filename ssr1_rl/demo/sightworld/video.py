"""Draws the silent video of a clip: coloured shapes on a plain ground, one shape for each sound's source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from ssr1_rl.demo.scenes import TIMBRES

SIZE = 64
"""Width and height of a frame in pixels."""
FRAMES_PER_SOUND = 3
_OBJECT_SIZE = 22
_COLOURS: dict[str, tuple[int, int, int]] = dict(
    zip(TIMBRES, [(240, 200, 40), (220, 50, 50), (60, 110, 230), (50, 180, 80)], strict=True)
)


def write_video(path: Path, seen: Sequence[Sequence[str]], sound_every_s: float, rng: np.random.Generator) -> None:
    """Writes an MP4 file without sound.

    Args:
        seen: for each sound, the objects that are seen from one sound's start to the next one's.
        sound_every_s: seconds from the start of a sound to the start of the next.
    """
    import av

    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        # MPEG-4 Part 2 takes half the time of H.264. One thread, so that the bytes do not depend on the machine.
        stream = container.add_stream("mpeg4", rate=Fraction(FRAMES_PER_SOUND / sound_every_s).limit_denominator(100))
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 500_000
        stream.codec_context.gop_size = FRAMES_PER_SOUND
        stream.codec_context.thread_count = 1
        for frame in frames(seen, rng):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def frames(seen: Sequence[Sequence[str]], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The frames, uint8 [SIZE, SIZE, 3]. Objects that are seen tremble, whether they sound or not."""
    ground = rng.integers(60, 120, size=3)
    for objects in seen:
        corners = _corners(len(objects), rng)
        for _ in range(FRAMES_PER_SOUND):
            frame = np.empty((SIZE, SIZE, 3), dtype=np.uint8)
            frame[:] = ground
            for name, corner in zip(objects, corners, strict=True):
                top, left = corner + rng.integers(-1, 2, size=2)
                frame[top : top + _OBJECT_SIZE, left : left + _OBJECT_SIZE][_SHAPES[name]] = _COLOURS[name]
            yield frame


def _corners(num_objects: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Upper left corners (top, left) of objects that stand beside each other."""
    room = SIZE // max(1, num_objects)
    return [
        np.array([rng.integers(2, SIZE - _OBJECT_SIZE - 2), number * room + rng.integers(2, room - _OBJECT_SIZE - 2)])
        for number in range(num_objects)
    ]


def _shapes() -> dict[str, np.ndarray]:
    """For each object its shape, bool [_OBJECT_SIZE, _OBJECT_SIZE]."""
    row, column = np.mgrid[:_OBJECT_SIZE, :_OBJECT_SIZE] / (_OBJECT_SIZE - 1) * 2 - 1
    disc = row**2 + column**2 <= 1
    square = np.maximum(abs(row), abs(column)) <= 0.85
    triangle = abs(column) <= (row + 1) / 2
    cross = np.minimum(abs(row), abs(column)) <= 0.35
    return dict(zip(TIMBRES, [disc, square, triangle, cross], strict=True))


_SHAPES = _shapes()
