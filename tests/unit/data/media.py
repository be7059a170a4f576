"""Writes clips in the formats that libsndfile and FFmpeg can write here."""

import io
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import soundfile

RATE = 16_000


def noise(seconds, rate=RATE, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * rate)).astype(np.float32)


def sound_bytes(format, subtype, samples, rate=RATE):
    """A file of libsndfile's."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format, subtype=subtype)
    return file.getvalue()


def media_bytes(
    format,
    codec,
    samples: Sequence[np.ndarray] | np.ndarray,
    rate=RATE,
    layout="mono",
    bit_rate=0,
    options=None,
    metadata=None,
    video=False,
    default=None,
):
    """A file of FFmpeg's; several arrays of samples are several audio streams, `default` the index of one of them."""
    many = samples if isinstance(samples, list) else [samples]
    # By a name, because FFmpeg opens the file again to put an MP4's index first.
    with (
        TemporaryDirectory() as folder,
        av.open(f"{folder}/clip", "w", format=format, options=options or {}) as container,
    ):
        container.metadata.update(metadata or {})
        if video:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuv420p"
        streams = [container.add_stream(codec, rate=rate, layout=layout) for _ in many]
        for index, stream in enumerate(streams):
            if bit_rate:
                stream.bit_rate = bit_rate
            if default is not None:
                stream.disposition = av.stream.Disposition.default if index == default else 0
        if video:
            for _ in range(10):
                container.mux(picture.encode(av.VideoFrame(32, 32, "yuv420p")))
            container.mux(picture.encode())
        for stream, values in zip(streams, many, strict=True):
            convert = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
            for start in range(0, len(values), 1024):
                frame = av.AudioFrame.from_ndarray(values[None, start : start + 1024], format="flt", layout="mono")
                frame.sample_rate, frame.pts = rate, start
                for converted in convert.resample(frame):
                    container.mux(stream.encode(converted))
            container.mux(stream.encode())
        container.close()
        return Path(folder, "clip").read_bytes()
