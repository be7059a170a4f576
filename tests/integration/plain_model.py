"""transformers' own forward pass, in float64, which the learners are compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssr1_rl.types import TrainGroup


class PlainModel:
    """A Qwen2-Audio as transformers runs it: one prompt and one response at a time, clips padded to 30 s.

    With `weights`, names as in memory, its parameters get gradients; without it is the frozen start.
    """

    def __init__(self, path: Path, temperature: float = 1.0, weights: dict[str, np.ndarray] | None = None) -> None:
        from transformers import Qwen2AudioForConditionalGeneration, WhisperFeatureExtractor

        self.model: Any = Qwen2AudioForConditionalGeneration.from_pretrained(path, dtype=torch.float64).eval()
        self.model.requires_grad_(weights is not None)
        self._temperature = temperature
        self._extract = WhisperFeatureExtractor.from_pretrained(path)
        if weights:
            self.model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    def __call__(self, group: TrainGroup, response: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probs and entropies of the response's tokens [T], tempered."""
        if not response:
            return torch.zeros(0), torch.zeros(0)
        clip = self._extract(
            group.waveforms[0].waveform, sampling_rate=16000, return_attention_mask=True, return_tensors="pt"
        )
        _, num_features = self.model.model.audio_tower._get_feat_extract_output_lengths(clip.attention_mask.sum(-1))
        prompt: list[int] = []
        for token in group.prompt_token_ids:
            prompt += [token] * (int(num_features) if token == self.model.config.audio_token_id else 1)
        ids = torch.tensor([[*prompt, *response]])
        logits = self.model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            input_features=clip.input_features.double(),
            feature_attention_mask=clip.attention_mask,
        ).logits[0, len(prompt) - 1 : -1]
        logprobs_TV = (logits / self._temperature).log_softmax(-1)
        return logprobs_TV.gather(-1, torch.tensor(response)[:, None])[:, 0], -(logprobs_TV.exp() * logprobs_TV).sum(-1)
