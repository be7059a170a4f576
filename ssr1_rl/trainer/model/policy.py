"""The policy as the learner runs it: features of clips once, log-probs of response tokens only.

Shapes: B rows (1 if packed), L their length, H hidden size, D width of the tower, _T response tokens, C clips.
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ssr1_rl.audio_families import family_of
from ssr1_rl.data.prompt import NO_PLACEHOLDER
from ssr1_rl.trainer.attention.interface import BACKENDS, TRANSFORMERS_NAMES, use_packed_attention
from ssr1_rl.trainer.batches.clips import ClipBatch
from ssr1_rl.trainer.batches.layout import PaddedLayout
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.model.exactness import check_exact
from ssr1_rl.trainer.model.families import backbone_path, make_model, read_config
from ssr1_rl.trainer.model.logprobs import LogprobHead
from ssr1_rl.types import SOFTMAX, Distribution

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Policy(nn.Module):
    """Wraps a transformers model in one `forward`: micro-batch in, log-probs out.

    Args:
        model: a model of transformers that `read_config` accepts; it is changed in place.
        distribution: what responses are sampled from; log-probs are those of this distribution.
        train_audio_tower: False freezes the parameters of the tower that reads clips or images.
        attention: a key of `BACKENDS`.
        prefix_packing: False for padded rows, which use transformers' own attention of that kind.
        float32_head: True computes logits in float32 whatever the model's dtype is.

    Raises:
        ValueError: the log-probs would differ from the model's own; see `check_exact`.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        distribution: Distribution,
        train_audio_tower: bool,
        attention: str = "sdpa",
        prefix_packing: bool = True,
        float32_head: bool = False,
    ) -> None:
        super().__init__()
        check_exact(model.config, prefix_packing)
        self.model = model
        self.distribution = distribution
        self.family = family_of(model.config)
        self.tower = self.family.tower(model) if self.family else None
        self.placeholder_id = self.family.placeholder_id(model.config) if self.family else NO_PLACEHOLDER
        self._backbone_path = backbone_path(model.config)
        self._attention = BACKENDS[attention]
        if prefix_packing:
            use_packed_attention(self.backbone)
        else:
            self.backbone.set_attn_implementation(TRANSFORMERS_NAMES[attention])
        LogprobHead.replace(self.head, float32_head)
        if self.tower:
            self.tower.set_trainable(train_audio_tower)

    def forward(self, batch: MicroBatch | ClipBatch) -> tuple[Tensor, Tensor] | Tensor:
        """Log-prob of every response token, float32 [T], and the entropy at each [T].

        For a `ClipBatch`, the tower's output [C, most features, D]. It is computed here because ZeRO-3 gathers
        weights only within a forward pass.
        """
        if isinstance(batch, ClipBatch):
            return self._encode(batch.inputs, batch.input_lengths)
        device = batch.input_ids.device
        attending = (
            {"attention_mask": batch.layout.attention_mask().to(device)}
            if isinstance(batch.layout, PaddedLayout)
            else {"packing": self._attention(batch.layout, device)}
        )
        inputs = {"inputs_embeds": self.embed(batch)} if self.tower else {"input_ids": batch.input_ids}
        hidden = self.backbone(
            **inputs, position_ids=batch.position_ids, use_cache=False, **attending
        ).last_hidden_state
        hidden_T = hidden.flatten(0, 1)[batch.hidden_index_T]
        return self.head(hidden_T, batch.targets_T, self.distribution)

    @property
    def backbone(self) -> "PreTrainedModel":
        """The language model without its head."""
        return cast("PreTrainedModel", self.model.get_submodule(self._backbone_path))

    @property
    def head(self) -> nn.Module:
        """The lm_head: a `LogprobHead`."""
        return self.model.get_submodule("lm_head")

    def embed(self, batch: MicroBatch) -> Tensor:
        """Input embeddings [B, L, H] of a model with a tower, with features of clips in place of placeholders."""
        assert self.tower is not None and self.family is not None, "only models with a tower embed clips"
        made = tuple(map(self.family.num_tokens, batch.input_lengths))
        assert made == batch.num_audio_tokens, (
            f"the tower makes {made} features of these clips, the prompts have {batch.num_audio_tokens} placeholders"
        )
        embeds = self.model.get_input_embeddings()(batch.input_ids)
        chosen = self.tower.project(self._features(batch)[batch.feature_clips, batch.feature_positions])
        chosen = chosen.to(embeds.dtype)
        return embeds.flatten(0, 1).index_put((batch.feature_columns,), chosen).view_as(embeds)

    def _features(self, batch: MicroBatch) -> Tensor:
        """The tower's output [C, most features, D] for the clips of a micro-batch."""
        if batch.encoded:
            return batch.inputs.transpose(1, 2).to(self.model.dtype)
        if batch.input_lengths:
            return self._encode(batch.inputs, batch.input_lengths)
        # Ranks reduce gradients together, so each rank runs the tower in every pass, on zeros if it has no clip.
        tower, family = self.tower, self.family
        assert tower is not None and family is not None, "only models with a tower have clips"
        zeros = torch.zeros(1, tower.num_channels, family.min_length + family.margin, device=batch.inputs.device)
        return self._encode(zeros, (family.min_length,))

    def _encode(self, inputs: Tensor, input_lengths: tuple[int, ...]) -> Tensor:
        assert self.tower is not None, "only models with a tower have clips"
        return self.tower.encode(inputs, input_lengths)


def empty_policy(path: str, train_audio_tower: bool, prefix_packing: bool = False) -> Policy:
    """A policy without weights (on torch's meta device), for checks before anything is loaded.

    Raises:
        ValueError: the learner cannot train the model; see `read_config` and `Policy`.
    """
    config = read_config(path)
    with torch.device("meta"):
        return Policy(make_model(config), SOFTMAX, train_audio_tower, prefix_packing=prefix_packing)
