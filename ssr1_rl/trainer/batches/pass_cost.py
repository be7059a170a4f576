"""What a group costs a learner, by which groups are shared among ranks and packed into passes.

Operations, not tokens: attention grows with the pairs that are attended to, and the head runs on
response tokens alone.
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
    """Multiply-adds of a forward pass over a group (a backward pass takes about twice as many).

    Attributes:
        per_token: weights of the language model's matrices.
        per_pair: of a query and a key that it sees, in all layers.
        per_response_token: weights of the log-prob head.
        per_audio_token: weights of a trained audio tower, which has two positions for a token. A frozen
            one runs once per clip and not per pass: 0.
    """

    per_token: int
    per_pair: int
    per_response_token: int
    per_audio_token: int = 0

    @classmethod
    def of_policy(cls, policy: Policy, trains_audio_tower: bool) -> "PassCost":
        """Counted from its modules, under ZeRO-3 too."""
        family, tower = policy.audio_family, policy.audio_tower
        per_audio_token = 0
        if family and tower and trains_audio_tower:
            per_audio_token = family.positions_per_token * matrix_weights(tower.module)
        config = policy.backbone.config
        heads = config.num_attention_heads
        head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            per_token=matrix_weights(policy.backbone),
            per_pair=2 * heads * head_size * config.num_hidden_layers,
            per_response_token=matrix_weights(policy.model.lm_head),
            per_audio_token=per_audio_token,
        )

    def of_packed(self, group: PackedGroup) -> int:
        """Of the language model and the head over a group in a packed row."""
        return (
            self.per_token * group.num_tokens
            + self.per_pair * group.num_attended_pairs
            + self.per_response_token * sum(group.response_lengths)
        )

    def of_group(self, group: TrainGroup, lengths: tuple[int, ...]) -> int:
        """Of the responses of a group that a pass runs, by their lengths, with prompt and clips: 0 without any."""
        if not lengths:
            return 0
        packed = self.of_packed(PackedGroup(group.num_prompt_tokens, lengths))
        return packed + self.per_audio_token * sum(group.num_audio_tokens)


def matrix_weights(module: nn.Module) -> int:
    """Weights of all linear layers within a module, whole ones under ZeRO-3 too."""
    weights = (part.get_parameter("weight") for part in module.modules() if isinstance(part, nn.Linear))
    return sum(math.prod(whole_shape(weight)) for weight in weights)
