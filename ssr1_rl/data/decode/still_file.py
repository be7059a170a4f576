"""Decodes a still picture with Pillow."""

from __future__ import annotations

from typing import BinaryIO, cast

import numpy as np
from PIL import Image, ImageOps

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.pictures import VideoError, check_size, fitted

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are tried. Pillow knows more, and hands one of them (EPS) to another program."""

_MAX_BYTES = 2**28
"""Largest file of a still: Pillow reads some formats whole."""


def decode_still(file: ClipFile, longest: int) -> np.ndarray:
    """The picture as its orientation tag says, of an animation the first; uint8 [height, width, 3].

    Raises:
        VideoError: of another format, or too large.
        Exception: whatever Pillow raises for a corrupt file.
    """
    if file.num_bytes > _MAX_BYTES:
        raise VideoError(f"{file.path}: is larger than {_MAX_BYTES >> 20} MiB, which is no still; give the right file")
    try:
        image = Image.open(cast("BinaryIO", file), formats=_FORMATS)
    except Image.UnidentifiedImageError as error:
        file.check()
        raise VideoError(
            f"{file.path}: is no picture, or of an unknown format (known: {', '.join(_FORMATS)}); fetch it again, or "
            "convert it"
        ) from error
    with image:
        check_size(file.path, *image.size)
        # A JPEG is decoded at a half, a quarter or an eighth of its size, if that suffices.
        image.draft("RGB", fitted(*image.size, longest))
        picture = ImageOps.exif_transpose(_eight_bits(file, image)).convert("RGB")
    size = fitted(*picture.size, longest)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _eight_bits(file: ClipFile, image: Image.Image) -> Image.Image:
    """A picture of 16 bits with its upper 8, because Pillow's own conversion makes it white."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise VideoError(f"{file.path}: has 32 bits per pixel and channel; convert it to PNG or JPEG of 8 bits")
    return image
