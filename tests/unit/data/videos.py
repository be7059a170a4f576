"""Writes short videos whose frames say when they are shown: frame i is grey of level 5 i."""

from pathlib import Path

import av
import numpy as np

LEVEL = 5


def grey(index, width=64, height=48):
    return np.full((height, width, 3), LEVEL * index, np.uint8)


def write_video(
    path, pictures, rate=10, codec="libx264", format=None, gop=12, rotation=0, times=None, sound_s=0.0, options=None
) -> Path:
    """A video of these pictures; `times` are those of the frames, in 1/`rate` s (default: 0, 1, 2 …)."""
    with av.open(str(path), "w", format=format, options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = {"png": "rgb24", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.gop_size = gop
        if codec == "libx264":
            stream.options = {"crf": "4"}
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16_000, layout="mono") if sound_s else None
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = times[index] if times else index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            for start in range(0, round(16_000 * sound_s), 1024):
                block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                block.sample_rate, block.pts = 16_000, start
                container.mux(sound.encode(block))
            container.mux(sound.encode())
    return Path(path)
