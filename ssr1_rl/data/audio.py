"""Decodes a clip's file into a waveform: float32, mono, 16 kHz.

Engines and learners get only waveforms that passed the checks here. A clip that cannot
be used raises an `AudioError` with the file, the reason and the fix, instead of a crash in
another process.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import soundfile
import soxr

from ssr1_rl.types import SAMPLE_RATE, AudioRef

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4a")
"""Containers that libsndfile cannot open; PyAV decodes their first audio stream."""

MIN_SAMPLES = 400
"""Shortest clip, in samples at 16 kHz: 25 ms, the analysis window of one mel frame, and enough for one audio token."""

_UNKNOWN_CHUNK_SIZES = (0, 0xFFFFFFFF)
"""Sizes in the RIFF header of a file whose writer could not seek (such as a pipe): the length is unknown."""

_CODEC_SLACK_S = 0.2
"""Seconds by which an intact MP3 or AAC stream may be shorter than its header says (priming, padding, rounding)."""


class AudioError(ValueError):
    """A clip that cannot be used; the message gives file, reason and fix."""


def load_waveform(ref: AudioRef, *, max_audio_s: float, long_audio: str = "crop") -> np.ndarray:
    """Decodes one clip to float32 [num_samples] at 16 kHz, channels averaged.

    The file has any format of libsndfile (WAV, FLAC, OGG, MP3 …), or is a video container if PyAV is installed. Of a
    clip longer than `max_audio_s`, `long_audio="crop"` keeps the beginning, and "skip" refuses the clip.

    Raises:
        AudioError: the clip is missing, empty, truncated, corrupt, too short or (with "skip") too long,
            or has NaN or infinite samples.
    """
    path = Path(ref.path)
    if not path.is_file():
        raise AudioError(f"{path}: no such audio file; add it, or fix data's audio_dir")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: the file is empty (0 bytes); fetch it again or leave its row out")
    wanted_s = max_audio_s if long_audio == "crop" else float("inf")
    if path.suffix.lower() in VIDEO_SUFFIXES:
        samples, rate = _read_video(path, wanted_s)
    else:
        samples, rate = _read_sound_file(path, wanted_s)
    if len(samples) == 0:
        raise AudioError(f"{path}: holds 0 samples; fetch it again or leave its row out")
    if not np.isfinite(samples).all():
        num_bad = int(samples.size - np.isfinite(samples).sum())
        raise AudioError(f"{path}: {num_bad} of {samples.size} samples are NaN or infinite; encode the clip again")
    mono = samples.mean(axis=1, dtype=np.float32)
    waveform = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE)
    duration_s = len(waveform) / SAMPLE_RATE
    if len(waveform) < MIN_SAMPLES:
        raise AudioError(
            f"{path}: {duration_s:.4f} s is too short for an audio model (at least {MIN_SAMPLES / SAMPLE_RATE} s); "
            "leave its row out"
        )
    max_samples = int(max_audio_s * SAMPLE_RATE)
    if len(waveform) > max_samples:
        if long_audio == "skip":
            raise AudioError(
                f"{path}: {duration_s:.2f} s is longer than data.max_audio_s={max_audio_s}; "
                "cut the clip, or set data.long_audio=crop"
            )
        waveform = waveform[:max_samples]
    return np.ascontiguousarray(waveform)


def _num_wanted(seconds: float, rate: int) -> int:
    """Frames to decode for the first `seconds`, plus one second for the resampler's filter; -1 for all."""
    return -1 if seconds == float("inf") else int((seconds + 1) * rate)


def _read_sound_file(path: Path, wanted_s: float) -> tuple[np.ndarray, int]:
    """Reads the first `wanted_s`, or a little more: float32 [num_frames, num_channels], and the sampling rate."""
    try:
        missing_bytes = _missing_wav_bytes(path)
        if missing_bytes:
            raise AudioError(
                f"{path}: truncated, its header promises {missing_bytes} bytes more than the file has; fetch it again"
            )
        with soundfile.SoundFile(path) as file:
            num_wanted = _num_wanted(wanted_s, file.samplerate)
            num_promised = file.frames if num_wanted < 0 else min(num_wanted, file.frames)
            samples = file.read(num_wanted, dtype="float32", always_2d=True)
            rate = file.samplerate
    except OSError as error:
        raise AudioError(f"{path}: cannot be read ({error.strerror}); fix its permissions") from error
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path}: corrupt or of an unknown format ({error}); fetch or encode it again") from error
    if len(samples) < num_promised - _CODEC_SLACK_S * rate:
        raise AudioError(
            f"{path}: truncated, {len(samples)} of {num_promised} promised frames could be read; fetch it again"
        )
    return samples, rate


def _missing_wav_bytes(path: Path) -> int:
    """Bytes by which a RIFF WAVE file falls short of its data chunk; 0 for any other file.

    libsndfile reads a truncated WAV without an error and returns fewer frames, so the header is checked here.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        while len(chunk := file.read(8)) == 8:
            name, num_bytes = struct.unpack("<4sI", chunk)
            if name == b"data":
                return 0 if num_bytes in _UNKNOWN_CHUNK_SIZES else max(0, file.tell() + num_bytes - size)
            file.seek(num_bytes + num_bytes % 2, 1)
    return 0


def _read_video(path: Path, wanted_s: float) -> tuple[np.ndarray, int]:
    """The first audio stream of a container: float32 [num_frames, num_channels], and the sampling rate."""
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise AudioError(
            f"{path}: reading sound from a video needs PyAV; run `pip install av`, or extract the sound as .wav"
        ) from error
    blocks: list[np.ndarray] = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path}: the video has no audio stream; leave its row out")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            num_frames, num_wanted = 0, _num_wanted(wanted_s, rate)
            # MP4 states the length of its audio stream. Matroska does not, so a truncated one goes unnoticed.
            promised_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
            for frame in container.decode(stream):
                for block in resampler.resample(frame):
                    blocks.append(block.to_ndarray().T)
                    num_frames += block.samples
                if 0 <= num_wanted <= num_frames:
                    break
    except av.FFmpegError as error:
        raise AudioError(f"{path}: corrupt or truncated video ({error}); fetch it again") from error
    if num_frames < (min(promised_s, wanted_s) - _CODEC_SLACK_S) * rate:
        raise AudioError(
            f"{path}: truncated, {num_frames / rate:.2f} of {promised_s:.2f} s could be read; fetch it again"
        )
    if not blocks:
        return np.zeros((0, 1), np.float32), rate
    return np.concatenate(blocks).astype(np.float32, copy=False), rate
