"""Decodes a clip's file into a waveform: float32, mono, 16 kHz.

Engines and learners get only waveforms that passed the checks here. A clip that cannot
be used raises an `AudioError` with the file, the reason and the fix, instead of a crash in
another process.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import numpy as np
import soxr

from ssr1_rl.data.decode.clip_file import ClipFile
from ssr1_rl.data.decode.errors import AudioError, AudioUnavailable, ClipTooLong
from ssr1_rl.data.decode.media_file import decode_media_file
from ssr1_rl.data.decode.mono import MonoSamples
from ssr1_rl.data.decode.sound_file import NotASoundFile, decode_sound_file
from ssr1_rl.data.decode.whole import check_whole
from ssr1_rl.errors import UserError
from ssr1_rl.types import SAMPLE_RATE, AudioRef, Clip

__all__ = [
    "MIN_SAMPLES",
    "AudioError",
    "AudioUnavailable",
    "ClipTooLong",
    "as_clip",
    "check_decoders",
    "load_waveform",
    "sample_digest",
]

MIN_SAMPLES = 400
"""Shortest clip, in samples at 16 kHz: 25 ms, the analysis window of one mel frame, and enough for one audio token."""

MAX_LEVEL = 2.0**31
"""Largest magnitude of a sample: that of 32-bit whole numbers stored as floats. Beyond it mel features overflow."""


def load_waveform(
    ref: AudioRef, *, max_audio_s: float, long_audio: str = "crop", truncated_audio: str = "refuse"
) -> np.ndarray:
    """Decodes the beginning of one clip to float32 [num_samples] at 16 kHz, channels averaged.

    The content decides who decodes the file: libsndfile if it can, or else FFmpeg. No more is decoded than
    `max_audio_s` and a second. Of a longer clip, `long_audio="crop"` keeps the beginning, and "skip" refuses the clip.
    Of a file whose end is missing, `truncated_audio="use"` takes what is there, and "refuse" refuses the clip.

    Raises:
        AudioUnavailable: the file is missing or could not be read just now.
        ClipTooLong: with "skip", the clip is longer than `max_audio_s`.
        AudioError: the clip is empty, truncated, corrupt, without an audio stream, too short, or has NaN or
            infinite samples. Whatever a decoder raises is turned into this.
    """
    with ClipFile(Path(ref.path)) as file:
        try:
            return _waveform(file, max_audio_s, long_audio == "skip", truncated_audio == "use")
        except AudioError:
            file.check()
            raise
        except Exception as error:  # decoders raise nearly anything on a broken file
            file.check()
            raise AudioError(
                f"{file.path}: corrupt, or of an unknown format ({_described(error)}); fetch or encode it again"
            ) from error


def as_clip(waveform: np.ndarray) -> Clip:
    """A clip that holds its waveform itself, for work within one process."""
    return Clip(sample_digest(waveform), waveform)


def sample_digest(waveform: np.ndarray) -> str:
    """Identifies a clip by its samples: files of the same sound are one clip, a changed file is another."""
    return hashlib.blake2b(np.ascontiguousarray(waveform).data, digest_size=16).hexdigest()


def check_decoders() -> None:
    """Refuses an installation that cannot decode clips.

    Raises:
        UserError: a decoder is missing or does not load.
    """
    for module, package in (("soundfile", "soundfile"), ("soxr", "soxr"), ("av", "av (PyAV)")):
        try:
            importlib.import_module(module)
        except (ImportError, OSError) as error:
            raise UserError(
                f"the package {package}, which decodes clips, does not load ({error}); run `pip install {module}`"
            ) from error


def _waveform(file: ClipFile, max_audio_s: float, refuse_long: bool, use_truncated: bool) -> np.ndarray:
    if not use_truncated:
        check_whole(file)
    samples = _decode(file, max_audio_s, use_truncated)
    file.check()
    mono = samples.join()
    if not len(mono):
        raise AudioError(f"{file.path}: holds 0 samples; fetch it again or leave its row out")
    if samples.num_bad:
        raise AudioError(
            f"{file.path}: {samples.num_bad} of {samples.num_values} samples are NaN or infinite; encode the clip again"
        )
    waveform = mono if samples.rate == SAMPLE_RATE else soxr.resample(mono, samples.rate, SAMPLE_RATE)
    # Also false for NaN, which mixing and resampling make of samples near the limits of float32.
    if not np.abs(waveform).max(initial=0.0) <= MAX_LEVEL:
        raise AudioError(f"{file.path}: has samples beyond {MAX_LEVEL:.0f}, which is no sound; encode the clip again")
    _check_length(file, waveform, samples, max_audio_s, refuse_long)
    return np.ascontiguousarray(waveform[: int(max_audio_s * SAMPLE_RATE)])


def _decode(file: ClipFile, wanted_s: float, use_truncated: bool) -> MonoSamples:
    try:
        return decode_sound_file(file, wanted_s, use_truncated)
    except NotASoundFile as not_sound:
        file.check()
        file.seek(0)
        try:
            return decode_media_file(file, wanted_s, use_truncated)
        except AudioError:
            raise
        except Exception as error:
            raise ValueError(f"libsndfile: {not_sound}; FFmpeg: {_described(error)}") from error


def _check_length(
    file: ClipFile, waveform: np.ndarray, samples: MonoSamples, max_audio_s: float, refuse_long: bool
) -> None:
    duration_s = len(waveform) / SAMPLE_RATE
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(
            f"{file.path}: {duration_s:.4f} s is too short for an audio model (at least {MIN_SAMPLES / SAMPLE_RATE} "
            "s); leave its row out"
        )
    if refuse_long and len(waveform) > int(max_audio_s * SAMPLE_RATE):
        length = f"{samples.promised_s:.2f} s" if samples.promised_s >= duration_s else f"more than {duration_s:.2f} s"
        raise ClipTooLong(
            f"{file.path}: {length} is longer than data.max_audio_s={max_audio_s}; "
            "cut the clip, or set data.long_audio=crop"
        )


def _described(error: Exception) -> str:
    """The error's own words; FFmpeg's without its number."""
    words = getattr(error, "strerror", None) or str(error)
    return str(words) if isinstance(error, ValueError) and words else f"{type(error).__name__}: {words}".rstrip(": ")
