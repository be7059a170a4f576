"""Supervised fine-tuning (SFT) on chains of thought, in one process: for models that fit on one device.

It trains the same `Policy` as the learner. The loss is the mean of -log-prob over response tokens.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.store.export import write_model_folder
from ssr1_rl.trainer.batches.clips import ClipFeatures
from ssr1_rl.trainer.batches.rows import MicroBatch, Row, collate
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, Clip, PreparedQuestion
from ssr1_rl.weights.parameters import named_weights


@dataclass(frozen=True)
class SftExample:
    """A question and the response to learn (token ids, including the end-of-sequence token)."""

    question: PreparedQuestion
    response: tuple[int, ...]


@dataclass(frozen=True)
class SftSettings:
    """AdamW with linear warm-up and linear decay towards `decay_steps`."""

    num_steps: int
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay_steps: int = 800
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the 0-based step."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warmup * max(0.0, 1 - step / self.decay_steps)


class Sft:
    """Trains the model in `model_path`, its audio tower included."""

    def __init__(self, model_path: Path, settings: SftSettings) -> None:
        torch.manual_seed(settings.seed)
        self._settings = settings
        self._model_path = str(model_path)
        self._policy = Policy(load_model(self._model_path, torch.float32, "sdpa"), SOFTMAX, train_audio_tower=True)
        self._clips = ClipFeatures(self._model_path, _as_array)
        self._parameters = [p for p in self._policy.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )

    def train(self, examples: Sequence[SftExample], on_step: Callable[[int, float], None]) -> None:
        """Trains for `num_steps`, each on a random batch, and calls `on_step` with every 1-based step and its loss."""
        choose = random.Random(self._settings.seed)
        rows = [self._row(example) for example in examples]
        for step in range(self._settings.num_steps):
            loss = self._step(self._collate(choose.sample(rows, min(len(rows), self._settings.batch_size))), step)
            on_step(step + 1, loss)

    def _step(self, batch: MicroBatch, step: int) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate_at(step)
        logprobs_T, _ = self._policy(batch)
        loss = -logprobs_T.mean()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        self._optimizer.step()
        return loss.item()

    def save(self, output: Path) -> None:
        """Writes the trained model as a folder."""
        write_model_folder(self._model_path, named_weights(self._policy.model).items(), output, torch.float32)

    def _collate(self, rows: Sequence[Row]) -> MicroBatch:
        tower = self._policy.audio_tower
        assert tower is not None, "ClipFeatures refuses a text-only model"
        return collate(rows, self._policy.placeholder_id, self._clips, tower.num_mel_bins)

    def _row(self, example: SftExample) -> Row:
        question, response = example.question, example.response
        prompt = expand_audio_placeholders(question.token_ids, self._policy.placeholder_id, question.num_audio_tokens)
        return Row(
            tuple(prompt),
            question.waveforms,
            response,
            rollout_logprobs=(0.0,) * len(response),
            advantage=1.0,
            comparable=False,
            num_audio_tokens=question.num_audio_tokens,
        )


def _as_array(clip: Clip) -> np.ndarray:
    assert isinstance(clip.waveform, np.ndarray), "SFT runs in one process, without an object store"
    return clip.waveform
