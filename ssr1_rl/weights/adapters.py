"""LoRA adapters as weights: which weight each one changes, and the merged weights that engines and exports get.

An adapter (LoRA, arXiv 2106.09685) adds alpha / rank · B A x to the output of its linear layer, with A [rank, in]
and B [out, rank]. The merged weight is W + alpha / rank · B A (section 4.1), so engines need no support for adapters.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn

from ssr1_rl.weights.parameters import ADAPTER, checkpoint_name, named_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class AdaptedLayer(Protocol):
    """The members of peft's wrapper around a linear layer that we use. Each mapping has one key, `ADAPTER`."""

    lora_A: nn.ModuleDict
    lora_B: nn.ModuleDict
    scaling: Mapping[str, float]

    def enable_adapters(self, enabled: bool) -> None: ...


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, AdaptedLayer]]:
    """Every layer that has an adapter, with its module name."""
    return ((name, cast(AdaptedLayer, module)) for name, module in model.named_modules() if hasattr(module, "lora_A"))


def adapters_by_weight(model: "PreTrainedModel") -> dict[str, AdaptedLayer]:
    """The adapted layers by the checkpoint name of the weight that each adapts; empty without adapters."""
    model_type = model.config.model_type
    return {checkpoint_name(f"{name}.weight", model_type): layer for name, layer in adapted_layers(model)}


def adapter_parameters(layer: AdaptedLayer) -> list[nn.Parameter]:
    """A [rank, in] and B [out, rank] of a layer."""
    return [matrices[ADAPTER].get_parameter("weight") for matrices in (layer.lora_A, layer.lora_B)]


def merged(weight: Tensor, layer: AdaptedLayer) -> Tensor:
    """A new tensor W + alpha / rank · B A, computed in float32 and rounded once to W's dtype."""
    a, b = (parameter.detach().float() for parameter in adapter_parameters(layer))
    return torch.add(weight.detach().float(), b @ a, alpha=layer.scaling[ADAPTER]).to(weight.dtype)


def merged_weights(model: "PreTrainedModel") -> Iterator[tuple[str, Tensor]]:
    """Every weight by checkpoint name, with its adapter merged in. The model must be whole, not sharded by ZeRO-3."""
    adapters = adapters_by_weight(model)
    for name, weight in named_weights(model).items():
        yield name, merged(weight, adapters[name]) if name in adapters else weight.detach()


def adapted_modules(parameter_names: Iterable[str]) -> list[str]:
    """The names of the modules that adapter parameters belong to."""
    return sorted({name.rpartition(".lora_")[0] for name in parameter_names})
