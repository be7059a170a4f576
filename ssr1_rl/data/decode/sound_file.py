"""Decodes with libsndfile: WAV, FLAC, Ogg, MP3, AIFF, AU, CAF and others. Video containers and AAC it does not know."""

from __future__ import annotations

from typing import BinaryIO, cast

import numpy as np
import soundfile

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.mono import MonoSamples

_BLOCK_VALUES = 2**23
"""Values per read: 32 MiB, in the usual case the whole clip. Reading an MP3 in parts changes its samples a little."""

_MOST_FRAMES = 2**40
"""libsndfile gives 2^63 - 1 frames where it does not know the length."""


class NotASoundFile(Exception):
    """libsndfile cannot decode this file; another decoder may."""


def decode_sound_file(file: ClipFile, wanted_s: float, use_truncated: bool) -> MonoSamples:
    """Decodes the first `wanted_s` and a margin.

    Raises:
        NotASoundFile: of a format or a codec that libsndfile does not know, of a length that it cannot tell, or
            truncated in a way in which it gives nothing.
        AudioError: truncated, corrupt, or with an impossible sampling rate.
    """
    try:
        sound = soundfile.SoundFile(cast("BinaryIO", file))
    except soundfile.LibsndfileError as error:
        raise NotASoundFile(error.error_string) from error
    with sound:
        if not 0 < sound.frames < _MOST_FRAMES:
            raise NotASoundFile("its length is unknown")
        estimated = sound.format == "MP3" and not _states_length(file)
        samples = MonoSamples.at_rate(file, sound.samplerate, wanted_s)
        if not estimated:
            samples.promised_s = sound.frames / sound.samplerate
        _read(file, sound, samples, use_truncated)
        if estimated and samples.num_samples == sound.frames and not samples.full:
            raise NotASoundFile("it is longer than its first frames say")
        if use_truncated and not samples.num_samples:
            raise NotASoundFile("it is broken before its end")
    if not use_truncated:
        samples.check_length(file)
    return samples


def _read(file: ClipFile, sound: soundfile.SoundFile, samples: MonoSamples, use_truncated: bool) -> None:
    num_frames = max(1, _BLOCK_VALUES // sound.channels)
    while not samples.full:
        # Not reserved by the header's number of frames alone, which a broken file may set to anything.
        size = min(num_frames, samples.num_wanted - samples.num_samples, sound.frames - samples.num_samples)
        try:
            block = sound.read(out=np.empty((max(size, 0), sound.channels), np.float32))
        except soundfile.LibsndfileError as error:
            if use_truncated:
                return
            raise samples.broken(file, error) from error
        if not len(block):
            return
        samples.add(block)


def _states_length(file: ClipFile) -> bool:
    """Whether an MP3 states its number of frames. libsndfile guesses it from the first frame's bit rate otherwise."""
    position = file.tell()
    file.seek(0)
    head = file.read(10)
    if head[:3] == b"ID3" and len(head) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        file.seek(10 + size)
    else:
        file.seek(0)
    # The first frame, of at most 1441 bytes, holds it; players allow for some junk before that.
    frame = file.read(8192)
    file.seek(position)
    return any(name in frame for name in (b"Xing", b"Info", b"VBRI"))
