"""Cost of a group's forward pass, which decides how groups are shared among ranks and packed into passes.

It counts operations, not tokens, because attention grows with the attended pairs and the head runs only on response
tokens.
"""

import math
from dataclasses import dataclass

from torch import nn

from ssr1_rl.trainer.batches.layout import PackedGroup
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import TrainGroup
from ssr1_rl.weights.parameters import whole_shape


@dataclass(frozen=True)
class PassCost:
    """Multiply-adds of a forward pass; a backward pass takes about twice as many."""

    per_token: int  # weights of the language model's matrices
    per_pair: int  # multiply-adds per pair of a query and a key that it attends to, in all layers
    per_response_token: int  # weights of the log-prob head
    # The weights of a trained tower times its positions per token; a frozen one runs once per clip: 0.
    per_audio_token: int = 0

    @classmethod
    def of_policy(cls, policy: Policy, trains_audio_tower: bool) -> "PassCost":
        """Counts the weights of the policy's modules; ZeRO-3 may have sharded them."""
        tower, per_audio_token = policy.tower, 0
        if tower and trains_audio_tower:
            per_audio_token = tower.positions_per_token * matrix_weights(tower.module)
        config = policy.backbone.config
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            per_token=matrix_weights(policy.backbone),
            per_pair=2 * heads * head_size * config.num_hidden_layers,
            per_response_token=matrix_weights(policy.head),
            per_audio_token=per_audio_token,
        )

    def of_packed(self, group: PackedGroup) -> int:
        """Cost of one group in a packed row, in operations, without the tower."""
        return (
            self.per_token * group.num_tokens
            + self.per_pair * group.num_attended_pairs
            + self.per_response_token * sum(group.response_lengths)
        )

    def of_group(self, group: TrainGroup, lengths: tuple[int, ...]) -> int:
        """Cost of a group's prompt and clips, with responses of these `lengths`; 0 without responses."""
        if not lengths:
            return 0
        packed = self.of_packed(PackedGroup(group.num_prompt_tokens, lengths))
        return packed + self.per_audio_token * sum(group.num_audio_tokens)


def matrix_weights(module: nn.Module) -> int:
    """Number of weights in all linear layers of a module, counting whole tensors where ZeRO-3 shards them."""
    weights = (part.get_parameter("weight") for part in module.modules() if isinstance(part, nn.Linear))
    return sum(math.prod(whole_shape(weight)) for weight in weights)
