"""One rank of SFT: a `TrainedPolicy` whose loss is the mean of -log-prob over response tokens. Needs no Ray.

    loss = - sum over the step's response tokens of log p(token) / their number

The sum and the number are those of all ranks and micro-batches, and the division is made once.
"""

from collections.abc import Sequence

import numpy as np

from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.batches.rows import Row
from ssr1_rl.trainer.collectives import sums_over_ranks
from ssr1_rl.trainer.deepspeed_setup import RankSpec
from ssr1_rl.trainer.trained_policy import TrainedPolicy
from ssr1_rl.types import SOFTMAX, Clip, TrainGroup


class SftLearner(TrainedPolicy):
    """Trains the policy on given responses. A rank may come without any; then it runs passes that change nothing."""

    advice = ", and check the data for what no model can answer"

    def __init__(self, spec: RankSpec, model: ModelConfig, learner: LearnerConfig, seed: int) -> None:
        super().__init__(spec, model, learner, SOFTMAX, seed, _waveform)
        # Any token but the placeholder, which stands for a clip.
        token = int(self.policy.placeholder_id == 0)
        self._spare = [Row((token,), (), (token,), (0.0,), 0.0, comparable=False)]

    def update(self, groups: Sequence[TrainGroup], num_updates: int, **counts: float) -> dict[str, float]:
        """Makes one update of a run of `num_updates` on the groups of all ranks; a collective.

        Returns:
            Metrics over all ranks, by name; `counts` are summed over ranks too. Without a token nothing is updated, and
            there is neither a loss nor a norm.
        """
        rows = self._rows(groups)
        totals = self._sums(counts | {"trained_tokens": float(sum(len(row.response) for row in rows))})
        num_tokens = totals["trained_tokens"]
        if not num_tokens:
            self.policy_version += 1
            return totals
        figures = self.compute_gradient(rows, num_tokens)
        self.refuse_non_finite({"loss": figures["loss"]})
        made = self.step(num_updates)
        self.policy_version += 1
        found = self._sums(figures | self._passes.take_clip_counts())
        num_clips, num_encoded = found.pop("audio_clips", 0.0), found.pop("audio_clips_encoded", 0.0)
        hits = {"audio_cache_hit_rate": 1.0 - num_encoded / num_clips} if num_clips else {}
        entropy = found.pop("entropy") / num_tokens
        return totals | found | made | hits | {"entropy": entropy}

    def compute_gradient(self, rows: Sequence[Row], num_tokens: float) -> dict[str, float]:
        """Computes the gradient of all ranks' rows, which have `num_tokens`, in the parameters; a collective.

        Returns:
            This rank's part of the loss, and its sums and counts.
        """
        figures = {"loss": 0.0, "entropy": 0.0, "row_tokens": 0.0, "computed_tokens": 0.0}
        parts = []
        for batch in self.in_turn(self._passes.micro_batches(rows, spare=self._spare)):
            logprobs_T, entropy_T = self.engine(batch)
            loss = -logprobs_T.sum() / num_tokens
            self.backward(loss, batch)
            figures["computed_tokens"] += batch.num_computed_tokens
            if batch.weight:
                figures["row_tokens"] += batch.num_row_tokens
                parts.append((loss.detach(), entropy_T.detach().sum()))
        # Read after the last pass: until then the host does not wait for the device.
        figures["loss"] = sum(float(loss) for loss, _ in parts)
        figures["entropy"] = sum(float(entropy) for _, entropy in parts)
        return figures

    def validate(self, groups: Sequence[TrainGroup], **counts: float) -> dict[str, float]:
        """Sums over the groups of all ranks, without an update; a collective.

        Returns:
            `logprob`, the log-probs of the response tokens, `tokens`, `questions`, and `counts`.
        """
        logprobs = self._passes.logprobs(self.engine, self._rows(groups), spare=self._spare)
        own = {
            "logprob": sum(map(sum, logprobs)),
            "tokens": float(sum(map(len, logprobs))),
            "questions": float(len(groups)),
        }
        return self._sums(own | counts)

    def _rows(self, groups: Sequence[TrainGroup]) -> list[Row]:
        return self._passes.rows(groups, self.policy_version)

    def _sums(self, values: dict[str, float]) -> dict[str, float]:
        return sums_over_ranks(values, self._device)


def _waveform(clip: Clip) -> np.ndarray:
    assert isinstance(clip.waveform, np.ndarray), "SFT decodes clips in the rank that needs them"
    return clip.waveform
