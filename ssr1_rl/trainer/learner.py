"""One learner rank: a DeepSpeed engine around the policy, updated from groups. No Ray.

All ranks run the same calls in the same order; each one is given its own share of
the groups. Denominators are those of the global batch, so no result depends on
micro-batching, on the number of ranks or on the ZeRO stage.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.config import GrpoConfig, LearnerConfig, ModelConfig
from ssr1_rl.data.prompt import expand_audio_placeholders, num_audio_tokens
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.batching import (
    MicroBatch,
    Row,
    collate,
    cut_micro_batches,
    cut_padded_micro_batches,
    rows_to_train,
)
from ssr1_rl.trainer.clip_features import ClipFeatures
from ssr1_rl.trainer.deepspeed_setup import join_peers, load_for_zero, load_reference, start_deepspeed
from ssr1_rl.trainer.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.kl import kl_estimate
from ssr1_rl.trainer.lora import add_adapters, find_targets
from ssr1_rl.trainer.loss import LossTokens, grpo_loss, loss_denominator
from ssr1_rl.trainer.policy import Policy
from ssr1_rl.trainer.schedule import learning_rate_share
from ssr1_rl.trainer.totals import Totals, summarise
from ssr1_rl.trainer.tower_outputs import TowerOutputs
from ssr1_rl.types import TrainGroup


@dataclass(frozen=True)
class RankSpec:
    """Where a rank stands among its peers. `device` is "cpu" or "cuda"."""

    rank: int
    world_size: int
    master_address: str
    master_port: int
    device: str


class Learner:
    """See the module. `fetch_waveform` turns a clip's handle into its float32 waveform [num_samples].

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
        temperature: float,
        seed: int,
        fetch_waveform: Callable[[Any], np.ndarray] = lambda handle: handle,
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
            hf_model, temperature, model.train_audio_tower, self.attention.backend, learner.prefix_packing
        )
        self.lora = model.lora
        if model.lora.rank:
            add_adapters(hf_model, model.lora.rank, model.lora.alpha, find_targets(hf_model, model.lora.target_modules))
        self.engine = start_deepspeed(self.policy, model, learner)
        self._reference = None
        if grpo.kl_coefficient:
            self._reference = load_reference(self.engine, model, learner, temperature, self.attention.backend)
        self._clips = self._make_clips(model, fetch_waveform)
        self.kl_coefficient = grpo.kl_coefficient
        self.num_updates = 0
        self.policy_version = 0

    @property
    def model(self) -> Any:
        """The transformers model; its parameters may be ZeRO shards."""
        return self.policy.model

    def update(self, minibatches: Sequence[Sequence[TrainGroup]]) -> dict[str, float]:
        """Trains on this rank's share of each mini-batch; afterwards the policy version is one higher.

        Returns:
            Metrics over all ranks (the same on each): see `summarise`.
        """
        totals = Totals()
        batches = [self._rows_of(minibatch) for minibatch in minibatches]
        if self._grpo.importance_correction != "none" and self._grpo.num_epochs * len(batches) > 1:
            batches = [self._with_old_logprobs(rows) for rows in batches]
        for epoch in range(self._grpo.num_epochs):
            for index, rows in enumerate(batches):
                # After the first update the policy is no longer the one that the engines sampled from.
                is_first = epoch == index == 0
                self._update_once(rows if is_first else [replace(row, comparable=False) for row in rows], totals)
        self.policy_version += 1
        if isinstance(self._clips, TowerOutputs):
            num_clips, num_encoded = self._clips.take_counts()
            totals.add_sums(audio_clips=num_clips, audio_clips_encoded=num_encoded)
        return summarise(totals.over_ranks(self._device))

    def compute_gradient(self, groups: Sequence[TrainGroup]) -> Totals:
        """Forward and backward over all micro-batches; the gradient is complete and reduced afterwards.

        Tokens sampled at `policy_version` count as sampled by these very weights.
        """
        return self._compute_gradient(self._rows_of(groups))

    def reference_kl(self, groups: Sequence[TrainGroup]) -> list[tuple[tuple[float, ...], ...]]:
        """For each group and response the KL estimate of every token, engine's policy to reference (a collective).

        The engine sampled the tokens, so its log-probs are those of the policy that the estimate is about.
        """
        rows = self._rows_of(groups)
        with torch.no_grad():
            ref_logprobs = self._logprobs(self._reference_logprobs, rows, rows)
        estimates = iter(
            tuple(kl_estimate(torch.tensor(row.rollout_logprobs), ref_T, self._grpo.kl_estimator).tolist())
            for row, ref_T in zip(rows, ref_logprobs, strict=True)
        )
        return [tuple(next(estimates) for _ in group.responses) for group in groups]

    def _compute_gradient(self, rows: Sequence[Row]) -> Totals:
        totals = Totals()
        lengths = [len(row.response) for row in rows if row.in_loss and row.response]
        num_tokens, num_responses = int(self._sum_over_ranks(sum(lengths))), int(self._sum_over_ranks(len(lengths)))
        denominator = loss_denominator(num_tokens, num_responses, self._grpo)
        micro_batches = self._micro_batches(rows)
        for index, batch in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            self._accumulate(batch.to(self._device), denominator, totals)
        return totals

    def _update_once(self, rows: Sequence[Row], totals: Totals) -> None:
        totals.add(self._compute_gradient(rows))
        self._set_learning_rate()
        grad_norm = self._step()
        self.num_updates += 1
        totals.add_sums(updates=1.0, grad_norm=grad_norm, learning_rate=self._learning_rate())

    def _accumulate(self, batch: MicroBatch, denominator: int, totals: Totals) -> None:
        logprobs_T, entropy_T = self.engine(batch)
        ref_logprobs_T = None
        if self.kl_coefficient and self._grpo.kl_placement == "loss":
            with torch.no_grad():
                ref_logprobs_T = self._reference_logprobs(batch)
        tokens = LossTokens(
            logprobs_T,
            self._old_logprobs(batch, logprobs_T),
            batch.rollout_logprobs_T,
            batch.advantages_T,
            entropy_T,
            batch.response_index_T,
            batch.layout.num_responses,
            ref_logprobs_T,
        )
        terms = grpo_loss(tokens, denominator, self._grpo, self.kl_coefficient)
        # DeepSpeed averages gradients over ranks; ours are terms of one global sum.
        self.engine.backward(terms.loss * (batch.weight * dist.get_world_size()))
        totals.add_micro_batch(batch, logprobs_T.detach(), entropy_T.detach(), terms)

    def _old_logprobs(self, batch: MicroBatch, logprobs_T: Tensor) -> Tensor:
        """What the ratio is taken to: the engine's log-probs, or with importance weights the learner's own."""
        if self._grpo.importance_correction == "none":
            return batch.rollout_logprobs_T
        # They were not computed beforehand where the step has one update: its policy is the current one.
        return batch.old_logprobs_T if len(batch.old_logprobs_T) else logprobs_T.detach()

    def _with_old_logprobs(self, rows: list[Row]) -> list[Row]:
        """The rows with their log-probs under the current policy, as far as they will be trained on."""
        kept = rows_to_train(rows, self._keep_all)
        with torch.no_grad():
            logprobs = self._logprobs(lambda batch: self.engine(batch)[0], kept, rows)
        old = {id(row): tuple(logprobs_T.tolist()) for row, logprobs_T in zip(kept, logprobs, strict=True)}
        return [replace(row, old_logprobs=old.get(id(row), ())) for row in rows]

    def _reference_logprobs(self, batch: MicroBatch) -> Tensor:
        assert self._reference is not None, "loaded with a KL coefficient that is not 0"
        return self._reference(batch)[0]

    def _logprobs(
        self, forward: Callable[[MicroBatch], Tensor], rows: Sequence[Row], spare: Sequence[Row]
    ) -> list[Tensor]:
        """Log-probs [T] of each row's response on the CPU (a collective); `spare`: as in `_passes`."""
        found = {id(row): torch.zeros(0) for row in rows}
        for part in self._passes([row for row in rows if row.response], spare)[0]:
            logprobs_T = forward(self._collate(part).to(self._device)).cpu()
            lengths = [len(row.response) for row in part]
            found.update(zip(map(id, part), logprobs_T.split(lengths), strict=True))
        return [found[id(row)] for row in rows]

    def _step(self) -> float:
        """One optimizer step; returns the gradient's global norm before clipping."""
        grad_norm = self.engine.get_global_grad_norm()
        if self._config.zero_stage == 0:
            # Plain data parallelism keeps whole, reduced gradients, and DeepSpeed reports no norm.
            grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
            grad_norm = torch.nn.utils.get_total_norm(grads)
        self.engine.step()
        if self._config.zero_stage:
            grad_norm = self.engine.get_global_grad_norm()
        assert grad_norm is not None, "DeepSpeed knows the gradient's norm after a step"
        return float(grad_norm)

    def _set_learning_rate(self) -> None:
        grpo = self._grpo
        share = learning_rate_share(
            self._config, self.num_updates, grpo.num_steps * grpo.num_epochs * grpo.num_minibatches
        )
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self._config.learning_rate * share

    def _learning_rate(self) -> float:
        return self.engine.optimizer.param_groups[0]["lr"]

    def _rows_of(self, groups: Sequence[TrainGroup]) -> list[Row]:
        return [row for group in groups for row in self._rows(group)]

    def _rows(self, group: TrainGroup) -> list[Row]:
        prompt = group.prompt_token_ids
        if self._clips is not None:
            lengths = [num_audio_tokens(self._clips.num_frames(handle)) for handle in group.waveforms]
            prompt = tuple(expand_audio_placeholders(prompt, self._placeholder_id, lengths))
        num_responses = len(group.responses)
        return [
            Row(prompt, group.waveforms, response, logprobs, advantage, comparable, token_advantages, in_loss)
            for response, logprobs, advantage, comparable, token_advantages, in_loss in zip(
                group.responses,
                group.rollout_logprobs,
                group.advantages_G,
                [group.submitted_version == self.policy_version] * num_responses,
                group.token_advantages or ((),) * num_responses,
                group.loss_mask_G or (True,) * num_responses,
                strict=True,
            )
        ]

    @property
    def _placeholder_id(self) -> int:
        return self.model.config.audio_token_id if self.policy.has_audio else -1

    def _micro_batches(self, rows: Sequence[Row]) -> list[MicroBatch]:
        """This rank's micro-batches of what is trained on, with fillers (see `_passes`)."""
        parts, num_own = self._passes(rows_to_train(rows, self._keep_all), rows)
        batches = [self._collate(part) for part in parts]
        return batches[:num_own] + [batch.as_filler() for batch in batches[num_own:]]

    def _passes(self, rows: Sequence[Row], spare: Sequence[Row]) -> tuple[list[list[Row]], int]:
        """The rows of each pass that this rank runs, and how many passes are its own.

        The others fill up to the number of the rank that has most: ZeRO-3 gathers parameters within
        every pass, so ranks must run equally many. A rank without `rows` runs one of `spare`.
        """
        cut = cut_micro_batches if self._config.prefix_packing else cut_padded_micro_batches
        own = list(cut(rows, self._config.max_tokens_per_micro_batch))
        most = max(1, int(self._max_over_ranks(len(own))))
        filler = own[-1] if own else [row for row in spare if row.response][:1]
        assert filler, "every rank holds at least one response with a token"
        if isinstance(self._clips, TowerOutputs):
            self._clips.prepare(handle for part in (*own, filler) for row in part for handle in row.clips)
        return own + [filler] * (most - len(own)), len(own)

    def _collate(self, rows: Sequence[Row]) -> MicroBatch:
        encoded = isinstance(self._clips, TowerOutputs)
        audio = self.model.config.audio_config if self.policy.has_audio else None
        return collate(
            rows,
            self._placeholder_id,
            self._clip_features,
            (audio.d_model if encoded else audio.num_mel_bins) if audio else 0,
            pack=self._config.prefix_packing,
            encoded=encoded,
        )

    def _make_clips(
        self, model: ModelConfig, fetch_waveform: Callable[[Any], np.ndarray]
    ) -> ClipFeatures | TowerOutputs | None:
        """What passes get of clips: the frozen tower's outputs, log-mel features where the tower is trained."""
        if not self.policy.has_audio:
            return None
        num_bytes = self._config.audio_cache_mib * 2**20
        if model.train_audio_tower:
            return ClipFeatures(model.path, fetch_waveform, num_bytes)
        return TowerOutputs(
            ClipFeatures(model.path, fetch_waveform, max_bytes=0),
            lambda clips: self.engine(clips.to(self._device)),
            self._max_over_ranks,
            self.model.config.audio_config.num_mel_bins,
            num_bytes,
            self._config.max_tokens_per_micro_batch,
        )

    @property
    def _keep_all(self) -> bool:
        """Whether a token has a gradient although its advantage is 0."""
        in_loss = self._grpo.kl_coefficient and self._grpo.kl_placement == "loss"
        return bool(in_loss or self._grpo.entropy_bonus)

    def _clip_features(self, handle: Any) -> tuple[Any, Tensor, int]:
        assert self._clips is not None, "only audio models meet clips"
        return self._clips(handle)

    def _sum_over_ranks(self, value: float) -> float:
        return _reduce(value, dist.ReduceOp.SUM, self._device)

    def _max_over_ranks(self, value: float) -> float:
        return _reduce(value, dist.ReduceOp.MAX, self._device)


def _reduce(value: float, op: Any, device: torch.device) -> float:
    tensor = torch.tensor(float(value), dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op)
    return float(tensor)
