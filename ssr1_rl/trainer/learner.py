"""One rank of GRPO's learner: updates a `TrainedPolicy` from groups with advantages. Needs no Ray.

Shapes: _T response tokens of a micro-batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ssr1_rl.algorithm.kl import kl_estimate
from ssr1_rl.algorithm.loss import grpo_loss, keeps_all, kl_in_loss, loss_denominator, needs_start_logprobs
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.trainer.batches.balance import counts_of_loss, rows_to_train
from ssr1_rl.trainer.batches.rows import MicroBatch, Row
from ssr1_rl.trainer.collectives import sum_over_ranks
from ssr1_rl.trainer.deepspeed_setup import RankSpec, load_reference
from ssr1_rl.trainer.engine import LogprobsOf
from ssr1_rl.trainer.totals import Totals, summarise
from ssr1_rl.trainer.trained_policy import TrainedPolicy
from ssr1_rl.types import Clip, Distribution, TokenValues, TrainGroup


class Learner(TrainedPolicy):
    """Trains the policy with GRPO's loss, and computes KL estimates to the frozen reference.

    Responses are sampled from `distribution`; `fetch_waveform` returns a clip's waveform [num_samples].

    Attributes:
        kl_coefficient: weight of the KL term in the next update; the controller may adapt it.
    """

    advice = ", and check the step's rewards for extreme values"

    def __init__(
        self,
        spec: RankSpec,
        model: ModelConfig,
        grpo: GrpoConfig,
        learner: LearnerConfig,
        distribution: Distribution,
        seed: int,
        fetch_waveform: Callable[[Clip], np.ndarray],
    ) -> None:
        super().__init__(spec, model, learner, distribution, seed, fetch_waveform)
        self._grpo = grpo
        self._num_updates_of_run = grpo.num_steps * grpo.num_epochs * grpo.num_minibatches
        self._reference: LogprobsOf | None = None
        if grpo.kl_coefficient:
            self._reference = load_reference(self.engine, model, learner, distribution, self.attention.backend)
        self.kl_coefficient = grpo.kl_coefficient

    def update(self, minibatches: Sequence[Sequence[TrainGroup]]) -> dict[str, float]:
        """Trains on this rank's share of each mini-batch, and increments the policy version; a collective.

        The metrics are those of `summarise` over all ranks.
        """
        totals = Totals()
        batches = [self.prepared(minibatch) for minibatch in minibatches]
        if needs_start_logprobs(self._grpo) and self._grpo.num_epochs * len(batches) > 1:
            batches = [self._with_logprobs("old_logprobs", self.engine, rows) for rows in batches]
        for epoch in range(self._grpo.num_epochs):
            for index, rows in enumerate(batches):
                # After the first update the policy differs from the one that the engines sampled from.
                is_first = epoch == index == 0
                self._update_once(rows if is_first else [replace(row, comparable=False) for row in rows], totals)
        self.policy_version += 1
        totals.add_sums(**self._passes.take_clip_counts())
        return summarise(totals.over_ranks(self._device))

    def logprobs(self, groups: Sequence[TrainGroup]) -> list[TokenValues]:
        """The current policy's log-probs, for each group, response and token; a collective."""
        rows = self._passes.rows(groups, self.policy_version)
        found = iter(self._passes.logprobs(self.engine, rows, rows))
        return [tuple(next(found) for _ in group.responses) for group in groups]

    def reference_kl(self, groups: Sequence[TrainGroup]) -> list[TokenValues]:
        """Estimates the KL divergence from the policy that sampled the tokens to the reference; a collective.

        It uses the engine's log-probs, because its policy sampled the tokens. There is one estimate for each group,
        response and token; it is 0 for a token whose log-prob from the engine is not usable.
        """
        rows = self._passes.rows(groups, self.policy_version)
        ref_logprobs = self._passes.logprobs(self._frozen(), rows, rows)
        estimates = iter(self._kl_of(row, ref) for row, ref in zip(rows, ref_logprobs, strict=True))
        return [tuple(next(estimates) for _ in group.responses) for group in groups]

    def _kl_of(self, row: Row, ref_logprobs: Sequence[float]) -> tuple[float, ...]:
        kl_T = kl_estimate(torch.tensor(row.rollout_logprobs), torch.tensor(ref_logprobs), self._grpo.kl_estimator)
        return tuple(kl_T.where(torch.tensor(row.usable, dtype=torch.bool), 0.0).tolist())

    def compute_gradient(self, rows: Sequence[Row]) -> Totals:
        """Computes the gradient of all micro-batches, reduced over ranks, in the parameters; a collective."""
        totals = Totals()
        num_tokens, num_responses = (int(sum_over_ranks(n, self._device)) for n in counts_of_loss(rows))
        denominator = loss_denominator(num_tokens, num_responses, self._grpo)
        micro_batches = self._passes.micro_batches(rows_to_train(rows, keeps_all(self._grpo)), spare=rows)
        for batch in self.in_turn(micro_batches):
            logprobs_T, entropy_T = self.engine(batch)
            terms = grpo_loss(self._tokens(batch, logprobs_T, entropy_T), denominator, self._grpo, self.kl_coefficient)
            self.backward(terms.loss, batch)
            totals.add_micro_batch(batch, logprobs_T.detach(), entropy_T.detach(), terms)
        return totals

    def _update_once(self, rows: Sequence[Row], totals: Totals) -> None:
        of_update = self.compute_gradient(rows)
        self.refuse_non_finite({name: of_update.sums[name] for name in ("loss", "kl_rollout")})
        totals.add(of_update)
        totals.add_sums(updates=1.0, **self.step(self._num_updates_of_run))

    def _tokens(self, batch: MicroBatch, logprobs_T: Tensor, entropy_T: Tensor) -> LossTokens:
        return LossTokens(
            logprobs_T,
            self._old_logprobs(batch, logprobs_T),
            batch.rollout_logprobs_T,
            batch.advantages_T,
            entropy_T,
            batch.response_index_T,
            batch.layout.num_responses,
            # A filler of masked rows has no reference log-probs, and its weight is 0.
            batch.ref_logprobs_T if len(batch.ref_logprobs_T) else logprobs_T.detach(),
            batch.in_loss_T,
            self._start_logprobs(batch, logprobs_T),
        )

    def _old_logprobs(self, batch: MicroBatch, logprobs_T: Tensor) -> Tensor:
        """The ratio's denominator: the engine's log-probs, or with importance correction the learner's own."""
        if self._grpo.importance_correction == "none":
            return batch.rollout_logprobs_T
        return self._start_logprobs(batch, logprobs_T)

    @staticmethod
    def _start_logprobs(batch: MicroBatch, logprobs_T: Tensor) -> Tensor:
        """The learner's log-probs before the step's first update, if the loss needs them."""
        # A step with one update does not precompute them, because its old policy is the current one.
        return batch.old_logprobs_T if len(batch.old_logprobs_T) else logprobs_T.detach()

    def prepared(self, groups: Sequence[TrainGroup]) -> list[Row]:
        """The groups' rows; with a KL term in the loss they hold the reference's log-probs, which no update changes."""
        rows = self._passes.rows(groups, self.policy_version)
        if kl_in_loss(self._grpo):
            rows = self._with_logprobs("ref_logprobs", self._frozen(), rows)
        return rows

    def _with_logprobs(self, field: str, policy: LogprobsOf, rows: list[Row]) -> list[Row]:
        """The rows, with log-probs in `field` for those that are trained on."""
        kept = rows_to_train(rows, keeps_all(self._grpo))
        found = dict(zip(map(id, kept), self._passes.logprobs(policy, kept, spare=rows), strict=True))
        return [replace(row, **{field: found.get(id(row), ())}) for row in rows]

    def _frozen(self) -> LogprobsOf:
        assert self._reference is not None, "the reference is loaded if kl_coefficient is not 0"
        return self._reference
