"""One learner rank: a DeepSpeed engine that updates the policy from groups. Needs no Ray.

All ranks make the same calls in the same order, each with its own share of the groups. Losses are divided by the
denominators of the global batch, so no result depends on micro-batching, on the number of ranks or on the ZeRO stage.

Shapes: _T response tokens of a micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.algorithm.kl import kl_estimate
from ssr1_rl.algorithm.loss import grpo_loss, keeps_all, kl_in_loss, loss_denominator, needs_start_logprobs
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.faults.guards import check_finite
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.batches.balance import counts_of_loss, rows_to_train
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.batches.passes import Passes
from ssr1_rl.trainer.batches.rows import MicroBatch, Row
from ssr1_rl.trainer.collectives import sum_over_ranks
from ssr1_rl.trainer.deepspeed_setup import RankSpec, join_peers, load_for_zero, load_reference, start_deepspeed
from ssr1_rl.trainer.engine import LogprobsOf
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.lora import add_adapters, find_targets
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.trainer.schedule import learning_rate_share
from ssr1_rl.trainer.totals import Totals, summarise
from ssr1_rl.types import Clip, Distribution, TokenValues, TrainGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Learner:
    """Trains the policy, and computes KL estimates to the frozen reference.

    Responses are sampled from `distribution`; `fetch_waveform` returns a clip's waveform [num_samples].

    Attributes:
        kl_coefficient: weight of the KL term in the next update; the controller may adapt it.
        policy_version: steps trained so far.
        num_updates: optimizer updates so far.
    """

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
        self._grpo, self._config = grpo, learner
        self._device = torch.device(spec.device)
        self.rank = spec.rank
        join_peers(spec, learner)
        torch.manual_seed(seed)
        self.attention = choose_attention(model.attn_implementation, spec.device, model.dtype)
        hf_model = load_for_zero(model, learner, spec.world_size, self.attention.backend)
        if model.gradient_checkpointing:
            checkpoint_layers(hf_model)
        self.policy = Policy(
            hf_model,
            distribution,
            model.train_audio_tower,
            self.attention.backend,
            learner.prefix_packing,
            model.float32_head,
        )
        self.lora = model.lora
        if model.lora.rank:
            add_adapters(hf_model, model.lora.rank, model.lora.alpha, find_targets(hf_model, model.lora.target_modules))
        self.engine = start_deepspeed(self.policy, model, learner)
        self._reference: LogprobsOf | None = None
        if grpo.kl_coefficient:
            self._reference = load_reference(self.engine, model, learner, distribution, self.attention.backend)
        self._passes = Passes(self.policy, model, learner, self._device, self.engine, fetch_waveform)
        self.kl_coefficient = grpo.kl_coefficient
        self.num_updates = 0
        self.policy_version = 0

    @property
    def model(self) -> "PreTrainedModel":
        """The transformers model; under ZeRO-3 its parameters are shards."""
        return self.policy.model

    @property
    def cost(self) -> PassCost:
        """Cost of this policy's passes, which the controller uses to share groups among ranks."""
        return self._passes.cost

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
        for index, batch in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            self._accumulate(batch.to(self._device), denominator, totals)
        return totals

    def _update_once(self, rows: Sequence[Row], totals: Totals) -> None:
        of_update = self.compute_gradient(rows)
        self._refuse_non_finite({name: of_update.sums[name] for name in ("loss", "kl_rollout")})
        totals.add(of_update)
        learning_rate = self._set_learning_rate()
        grad_norm = self._step()
        self.num_updates += 1
        totals.add_sums(updates=1.0, grad_norm=grad_norm, learning_rate=learning_rate)

    def _refuse_non_finite(self, figures: Mapping[str, float]) -> None:
        """Raises `GuardTripped`, on every rank, if a figure of any rank is not finite; a collective."""
        for name, value in figures.items():
            # A sum with a NaN or an infinity in it is one too.
            check_finite(name, sum_over_ranks(value, self._device), self.policy_version + 1)

    def _accumulate(self, batch: MicroBatch, denominator: int, totals: Totals) -> None:
        logprobs_T, entropy_T = self.engine(batch)
        tokens = LossTokens(
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
        terms = grpo_loss(tokens, denominator, self._grpo, self.kl_coefficient)
        # DeepSpeed averages gradients over ranks, but ours are terms of one global sum.
        self.engine.backward(terms.loss * (batch.weight * dist.get_world_size()))
        totals.add_micro_batch(batch, logprobs_T.detach(), entropy_T.detach(), terms)

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

    def _step(self) -> float:
        """Makes one optimizer step; returns the global norm of the gradient before clipping.

        Raises:
            GuardTripped: the norm is not finite; the policy has not changed.
        """
        if self._config.zero_stage == 0:
            # Without ZeRO the gradients are whole and reduced, and DeepSpeed reports no norm.
            grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(grads))
            check_finite("grad_norm", grad_norm, self.policy_version + 1)
            self.engine.step()
            return grad_norm
        # ZeRO computes the norm in the step, which it skips if the norm is not finite (see `start_deepspeed`).
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        assert norm is not None, "DeepSpeed computes the gradient's norm in a step"
        check_finite("grad_norm", float(norm), self.policy_version + 1)
        return float(norm)

    def _set_learning_rate(self) -> float:
        num_updates = self._grpo.num_steps * self._grpo.num_epochs * self._grpo.num_minibatches
        rate = self._config.learning_rate * learning_rate_share(self._config, self.num_updates, num_updates)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        return rate
