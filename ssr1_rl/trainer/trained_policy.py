"""A policy on one rank that DeepSpeed trains: what GRPO's `Learner` and SFT's `SftLearner` share. Needs no Ray.

All ranks make the same calls in the same order, each with its own rows. A loss is a term of one global sum, divided by
denominators of the global batch, so no result depends on micro-batching, on the number of ranks or on the ZeRO stage.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.faults.guards import check_finite
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.batches.pass_cost import PassCost
from ssr1_rl.trainer.batches.passes import Passes
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.collectives import sum_over_ranks
from ssr1_rl.trainer.deepspeed_setup import RankSpec, join_peers, load_for_zero, start_deepspeed
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.lora import add_adapters, find_targets
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.trainer.schedule import learning_rate_share
from ssr1_rl.types import Clip, Distribution

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class TrainedPolicy:
    """Loads the policy, accumulates gradients over micro-batches, and makes optimizer steps.

    Log-probs are those of `distribution`; `fetch_waveform` returns a clip's waveform [num_samples].

    Attributes:
        rank: this rank's number.
        attention: the attention backend, and why it was chosen.
        lora: settings of the adapters.
        policy_version: steps trained so far.
        num_updates: optimizer updates so far.
    """

    advice = ""
    """Ends the error about a figure that is not finite: what else to check."""

    def __init__(
        self,
        spec: RankSpec,
        model: ModelConfig,
        learner: LearnerConfig,
        distribution: Distribution,
        seed: int,
        fetch_waveform: Callable[[Clip], np.ndarray],
    ) -> None:
        self._config = learner
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
        self._passes = Passes(self.policy, model, learner, self._device, self.engine, fetch_waveform)
        self.num_updates = 0
        self.policy_version = 0

    @property
    def model(self) -> "PreTrainedModel":
        """The transformers model; under ZeRO-3 its parameters are shards."""
        return self.policy.model

    @property
    def cost(self) -> PassCost:
        """Cost of this policy's passes, by which groups are shared among ranks."""
        return self._passes.cost

    def in_turn(self, micro_batches: Sequence[MicroBatch]) -> Iterator[MicroBatch]:
        """Each micro-batch of an update, on the device; call `backward` before taking the next one.

        Every rank has the same number of micro-batches. After the last one the parameters hold the gradient of all,
        reduced over ranks.
        """
        for index, micro_batch in enumerate(micro_batches):
            self.engine.set_gradient_accumulation_boundary(index == len(micro_batches) - 1)
            yield micro_batch.to(self._device)

    def backward(self, loss: Tensor, batch: MicroBatch) -> None:
        """Adds the gradient of `loss`, the term of the global loss that a micro-batch adds; a collective."""
        # DeepSpeed averages gradients over ranks, but ours are terms of one global sum.
        self.engine.backward(loss * (batch.weight * dist.get_world_size()))

    def refuse_non_finite(self, figures: Mapping[str, float]) -> None:
        """Raises `GuardTripped`, on every rank, if a figure of any rank is not finite; a collective."""
        for name, value in figures.items():
            # A sum with a NaN or an infinity in it is one too.
            check_finite(name, sum_over_ranks(value, self._device), self.policy_version + 1, self.advice)

    def step(self, num_updates: int) -> dict[str, float]:
        """Makes one optimizer update of a run of `num_updates`; a collective.

        Returns:
            `grad_norm`, the global norm of the gradient before clipping, and `learning_rate`.

        Raises:
            GuardTripped: the norm is not finite; the policy has not changed.
        """
        learning_rate = self._config.learning_rate * learning_rate_share(self._config, self.num_updates, num_updates)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        grad_norm = self._step()
        self.num_updates += 1
        return {"grad_norm": grad_norm, "learning_rate": learning_rate}

    def _step(self) -> float:
        if self._config.zero_stage == 0:
            # Without ZeRO the gradients are whole and reduced, and DeepSpeed reports no norm.
            grads = [p.grad for p in self.policy.parameters() if p.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(grads))
            check_finite("grad_norm", grad_norm, self.policy_version + 1, self.advice)
            self.engine.step()
            return grad_norm
        # ZeRO computes the norm in the step, which it skips if the norm is not finite (see `start_deepspeed`).
        self.engine.step()
        norm = self.engine.get_global_grad_norm()
        assert norm is not None, "DeepSpeed computes the gradient's norm in a step"
        check_finite("grad_norm", float(norm), self.policy_version + 1, self.advice)
        return float(norm)
