"""Waveform -> the log-mel features that a model's audio tower reads: its input."""

from typing import TYPE_CHECKING

import numpy as np
from transformers import AutoConfig, AutoFeatureExtractor

from ssr1_rl.audio_families import audio_family_of, trained_config
from ssr1_rl.errors import UserError
from ssr1_rl.types import SAMPLE_RATE

if TYPE_CHECKING:
    from transformers import WhisperFeatureExtractor


class MelExtractor:
    """Computes log-mel features as the model's own feature extractor does, but without padding to the longest clip.

    It appends only as much silence as the clip's last frames can see. More would change nothing: silence is the
    log-mel floor, so it never raises the maximum of all frames, which Whisper's normalisation takes.

    Attributes:
        family: the model's audio family.
    """

    def __init__(self, model_path: str) -> None:
        family = audio_family_of(trained_config(AutoConfig.from_pretrained(model_path)))
        if family is None:
            raise UserError(f"{model_path} has no audio tower; use an audio-language model")
        extractor: WhisperFeatureExtractor = AutoFeatureExtractor.from_pretrained(model_path)
        if extractor.sampling_rate != SAMPLE_RATE or extractor.hop_length != family.hop_length:
            raise UserError(
                f"{model_path}: its feature extractor needs {extractor.sampling_rate} Hz and hops of "
                f"{extractor.hop_length} samples; only {SAMPLE_RATE} Hz and {family.hop_length} are supported"
            )
        self.family = family
        self._extractor = extractor

    def input_length(self, waveform: np.ndarray) -> int:
        """Mel frames of the clip, without the margin."""
        return self.family.num_mel_frames(len(waveform))

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """float32 [num_samples] -> float32 [num_mel_bins, num_mel_frames + margin], at most `max_mel_frames`.

        The margin holds what the feature extractor's own padding gives there (silence after the clip's end).
        """
        family = self.family
        num_frames = min(family.num_mel_frames(len(waveform)) + family.margin, family.max_mel_frames)
        # The last frame's window reaches 200 samples further, and the extractor drops one frame and mirrors the end.
        padded_length = min((num_frames + 2) * family.hop_length, self._extractor.n_samples)
        features = self._extractor(
            waveform, sampling_rate=SAMPLE_RATE, max_length=padded_length, padding="max_length", return_tensors="np"
        )
        return np.ascontiguousarray(features["input_features"][0][:, :num_frames], dtype=np.float32)
