"""Checks, before weights are loaded, that the learner's log-probs and published weights will be the model's own.

Packing computes a prompt once, our head computes log-probs from hidden states, and weights are published under the
names that they have in memory. Each is right for most models of transformers and wrong for some. So a twin of
the model runs on torch's meta device, where it takes neither memory nor time, and its forward pass is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ssr1_rl.audio_families import family_of
from ssr1_rl.errors import UserError
from ssr1_rl.trainer.attention.interface import InexactAttention, use_packed_attention
from ssr1_rl.trainer.batches.layout import PackedLayout
from ssr1_rl.trainer.model.families import backbone_path, make_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import MoeModelOutputWithPast

PADDED_INSTEAD = "set learner.prefix_packing: false"
ANOTHER_MODEL = "it cannot be trained here; set model.path to another"
MODEL_CODE_ERRORS = (AttributeError, KeyError, RuntimeError, TypeError)
"""Errors that a model's code raises if it gets fewer inputs than it needs."""


def check_exact(config: PretrainedConfig, prefix_packing: bool) -> None:
    """Refuses a model whose log-probs or published weights would differ from its own.

    Raises:
        UserError: the model is refused; the message gives the reason and what to set instead.
    """
    with torch.device("meta"):
        # In bfloat16, the only type in which mixtures of experts run on the meta device.
        twin = make_model(copy.deepcopy(config)).bfloat16().eval()
    if family_of(config) is None:
        _check_names(twin)
        _check_head(twin)
    backbone = cast("PreTrainedModel", twin.get_submodule(backbone_path(config)))
    _check_positions(backbone.config)
    _check_attention(backbone)
    if prefix_packing:
        _check_packing(backbone)


def _refused(config: PretrainedConfig, reason: str, fix: str) -> UserError:
    return UserError(f"model.path names a {config.model_type} model {reason}; {fix}")


def _unpackable(config: PretrainedConfig, reason: str) -> UserError:
    return _refused(config, f"{reason}, which prefix packing cannot compute exactly", PADDED_INSTEAD)


def _check_names(model: PreTrainedModel) -> None:
    """Checks that weights have their checkpoint's names in memory, because they are sent and exported under these."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    if get_model_conversion_mapping(model, add_legacy=False):
        raise _refused(model.config, "whose weights transformers converts while it loads them", ANOTHER_MODEL)


def _check_head(model: PreTrainedModel) -> None:
    """Checks that the logits are exactly `lm_head` of the hidden states.

    Runs the model's own forward pass with a small backbone and head in their place, and compares the result.
    """
    backbone, config = getattr(model, "model", None), model.config
    if not isinstance(backbone, nn.Module) or type(getattr(model, "lm_head", None)) is not nn.Linear:
        raise _refused(config, "without a linear lm_head over a backbone called model", ANOTHER_MODEL)
    with torch.device("cpu"), torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        hidden, head = torch.randn(1, 3, 8), nn.Linear(8, 5)
        probe = copy.copy(model)
        probe._modules = model._modules | {"model": _GivenHidden(hidden), "lm_head": head}
        try:
            logits = probe(input_ids=torch.zeros(1, 3, dtype=torch.long)).logits
        except MODEL_CODE_ERRORS as error:
            raise _refused(config, f"whose logits need more than hidden states ({error})", ANOTHER_MODEL) from error
        if not torch.equal(logits, head(hidden)):
            reason = "whose logits are more than lm_head of its hidden states (scaled or soft-capped)"
            raise _refused(config, reason, ANOTHER_MODEL)


class _GivenHidden(nn.Module):
    """A backbone that returns given hidden states."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *args: object, **kwargs: object) -> MoeModelOutputWithPast:
        from transformers.modeling_outputs import MoeModelOutputWithPast

        return MoeModelOutputWithPast(last_hidden_state=self._hidden)  # pyright: ignore[reportArgumentType]


def _check_positions(config: PretrainedConfig) -> None:
    """Checks that rotary frequencies do not depend on the longest row, which would change other rows' log-probs."""
    parameters = getattr(config, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    for rope in by_layer_type or [parameters]:
        kind = rope.get("rope_type", "default")
        if "dynamic" in kind or kind == "longrope":
            raise _refused(
                config,
                f"with rope_type {kind} in its config.json, whose frequencies depend on the longest row of a pass",
                "set rope_type to default, linear, yarn or llama3 there, or model.path to another",
            )


def _check_attention(backbone: PreTrainedModel) -> None:
    """Checks that transformers' sdpa computes all that the model's attention needs."""
    try:
        backbone.set_attn_implementation("sdpa")
    except ValueError as error:
        raise _refused(backbone.config, "that transformers does not run with sdpa", ANOTHER_MODEL) from error
    _follow(backbone, lambda config, reason: _refused(config, f"{reason}, beyond sdpa", ANOTHER_MODEL))


def _check_packing(backbone: PreTrainedModel) -> None:
    config = backbone.config
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if others:
        raise _unpackable(config, f"with layers of {', '.join(others)}")
    if not backbone._supports_attention_backend:
        raise _unpackable(config, "whose attention does not use transformers' attention interface")
    if getattr(config, "rope_parameters", None) is None:
        raise _unpackable(config, "without rotary positions")
    counter = _CountedAttention(PackedLayout(()), torch.device("meta"))
    _follow(backbone, _unpackable, packing=counter)
    if counter.num_calls != (num_layers := config.num_hidden_layers):
        reason = f"of whose {num_layers} layers {counter.num_calls} attend through transformers' interface"
        raise _unpackable(config, reason)


class _CountedAttention:
    """A `PackedAttention` that counts its calls."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        self.num_calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        self.num_calls += 1
        return torch.empty_like(query).transpose(1, 2).contiguous()


def _follow(backbone: PreTrainedModel, refuse: Callable[[PretrainedConfig, str], UserError], **kwargs: object) -> None:
    """Runs a pass over two tokens to see whether the model's code accepts it; the values are not used."""
    use_packed_attention(backbone)
    tokens, positions = torch.zeros(1, 2, dtype=torch.long, device="meta"), torch.arange(2, device="meta")[None]
    try:
        with torch.no_grad():
            backbone(input_ids=tokens, position_ids=positions, use_cache=False, **kwargs)
    except InexactAttention as error:
        raise refuse(backbone.config, str(error)) from error
    except MODEL_CODE_ERRORS as error:
        raise refuse(backbone.config, f"whose forward pass fails in this check ({error})") from error
