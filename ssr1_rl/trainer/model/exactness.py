"""Whether the learner's log-probs are a model's own: looked for in its forward passes, before anything is loaded.

Packing computes a prompt once, our head computes log-probs from hidden states, and weights go out under the
names that they have in memory. Each is right for most models of transformers and wrong for some, so a twin of
the model runs on torch's meta device, where it takes neither memory nor time, and what it asks for is noted.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ssr1_rl.trainer.attention.interface import InexactAttention, use_packed_attention
from ssr1_rl.trainer.batches.layout import PackedLayout
from ssr1_rl.trainer.model.families import TEXT, family_of, make_model

PADDED_INSTEAD = "set learner.prefix_packing: false"
ANOTHER_MODEL = "it cannot be trained here; set model.path to another"
MODEL_CODE_ERRORS = (AttributeError, KeyError, RuntimeError, TypeError)
"""What a model's code raises where it wants more than it was given."""


def check_exact(config: Any, prefix_packing: bool) -> None:
    """Refuses a model whose log-probs, or whose published weights, would be others than its own.

    Args:
        config: of the model.
        prefix_packing: False for padded rows.

    Raises:
        ValueError: with the reason and what to set instead.
    """
    with torch.device("meta"):
        # In bfloat16, since mixtures of experts run in nothing else there.
        twin = make_model(copy.deepcopy(config)).to(torch.bfloat16).eval()
    family = family_of(config)
    if family is TEXT:
        _check_names(twin)
        _check_head(twin)
    backbone = twin.get_submodule(family.backbone)
    _check_positions(backbone.config)
    _check_attention(backbone)
    if prefix_packing:
        _check_packing(backbone)


def _refused(config: Any, reason: str, mend: str) -> ValueError:
    return ValueError(f"model.path names a {config.model_type} model {reason}; {mend}")


def _unpackable(config: Any, reason: str) -> ValueError:
    return _refused(config, f"{reason}, which prefix packing cannot serve exactly", PADDED_INSTEAD)


def _check_names(model: Any) -> None:
    """Weights are sent and exported under their names in memory, so these must be the checkpoint's."""
    from transformers.conversion_mapping import get_model_conversion_mapping

    if get_model_conversion_mapping(model, add_legacy=False):
        raise _refused(model.config, "whose weights transformers converts while it loads them", ANOTHER_MODEL)


def _check_head(model: Any) -> None:
    """Logits must be those of `lm_head` over the hidden states of `model`, and nothing more.

    The model's own forward pass runs with both replaced by small stand-ins, so that its result can be compared.
    """
    if (
        not isinstance(getattr(model, "model", None), nn.Module)
        or type(getattr(model, "lm_head", None)) is not nn.Linear
    ):
        raise _refused(model.config, "without a linear lm_head over a backbone called model", ANOTHER_MODEL)
    with torch.device("cpu"), torch.random.fork_rng(devices=()), torch.no_grad():
        torch.manual_seed(0)
        hidden, head = torch.randn(1, 3, 8), nn.Linear(8, 5)
        probe = copy.copy(model)
        probe._modules = model._modules | {"model": _GivenHidden(hidden), "lm_head": head}
        try:
            logits = probe(input_ids=torch.zeros(1, 3, dtype=torch.long)).logits
        except MODEL_CODE_ERRORS as error:
            raise _refused(
                model.config, f"whose logits take more than hidden states ({error})", ANOTHER_MODEL
            ) from error
        if not torch.equal(logits, head(hidden)):
            raise _refused(
                model.config,
                "whose logits are more than lm_head of its hidden states (scaled or soft-capped)",
                ANOTHER_MODEL,
            )


class _GivenHidden(nn.Module):
    """Stands in for a backbone."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self._hidden = hidden

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import MoeModelOutputWithPast

        return MoeModelOutputWithPast(last_hidden_state=self._hidden)  # pyright: ignore[reportArgumentType]


def _check_positions(config: Any) -> None:
    """Rotary frequencies must not depend on the longest row: it would change the log-probs of all beside it."""
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


def _check_attention(backbone: Any) -> None:
    """Padded rows go through transformers' sdpa, and what that leaves out packing leaves out as well."""
    try:
        backbone.set_attn_implementation("sdpa")
    except ValueError as error:
        raise _refused(backbone.config, "that transformers does not run by sdpa", ANOTHER_MODEL) from error
    _follow(backbone, lambda config, reason: _refused(config, f"{reason}, beyond sdpa", ANOTHER_MODEL))


def _check_packing(backbone: Any) -> None:
    config = backbone.config
    others = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention"})
    if others:
        raise _unpackable(config, f"with layers of {', '.join(others)}")
    if not backbone._supports_attention_backend:
        raise _unpackable(config, "whose attention goes past transformers' attention interface")
    if getattr(config, "rope_parameters", None) is None:
        raise _unpackable(config, "without rotary positions")
    counter = _CountedAttention(PackedLayout(()), torch.device("meta"))
    _follow(backbone, _unpackable, packing=counter)
    if counter.num_calls != config.num_hidden_layers:
        raise _unpackable(
            config,
            f"of whose {config.num_hidden_layers} layers {counter.num_calls} attend through transformers' interface",
        )


class _CountedAttention:
    """A `PackedAttention` that counts its calls."""

    def __init__(self, layout: PackedLayout, device: torch.device) -> None:
        self.num_calls = 0

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, scaling: float | None) -> Tensor:
        self.num_calls += 1
        return torch.empty_like(query).transpose(1, 2).contiguous()


def _follow(backbone: Any, refuse: Callable[[Any, str], ValueError], **kwargs: Any) -> None:
    """Runs a pass over two tokens, of whose result nothing but the shape means anything."""
    use_packed_attention(backbone)
    tokens, positions = torch.zeros(1, 2, dtype=torch.long, device="meta"), torch.arange(2, device="meta")[None]
    try:
        with torch.no_grad():
            backbone(input_ids=tokens, position_ids=positions, use_cache=False, **kwargs)
    except InexactAttention as error:
        raise refuse(backbone.config, str(error)) from error
    except MODEL_CODE_ERRORS as error:
        raise refuse(backbone.config, f"whose forward pass cannot be followed ({error})") from error
