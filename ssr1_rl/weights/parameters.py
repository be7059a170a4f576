"""The policy's parameters: their published names, which are trained, and how ZeRO-3 shards become whole tensors.

transformers may name parameters in memory differently from the checkpoints that it reads. vLLM expects
the checkpoints' names, and so do exports and our own checkpoints.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from torch import nn

from ssr1_rl.audio_families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "default"
"""peft's name of the one adapter that a policy may have; it is part of parameter names."""


def checkpoint_name(name: str, model_type: str) -> str:
    """The name, in published checkpoints, of the parameter `name` in memory."""
    family = FAMILIES.get(model_type)
    return family.published_name(name) if family else name


def named_weights(model: "PreTrainedModel") -> dict[str, nn.Parameter]:
    """Every parameter of the published model by checkpoint name: tied ones once, adapters excluded."""
    return {
        checkpoint_name(name.replace(".base_layer.", "."), model.config.model_type): p
        for name, p in model.named_parameters()
        if ".lora_" not in name
    }


def named_adapters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every adapter parameter by the name that peft's own files give it; empty without LoRA."""
    return {name.replace(f".{ADAPTER}.", "."): p for name, p in model.named_parameters() if ".lora_" in name}


def trainable_parameters(model: "PreTrainedModel") -> dict[str, nn.Parameter]:
    """The parameters that get a gradient: the adapters if there are any, else weights by checkpoint name."""
    return {name: p for name, p in (named_weights(model) | named_adapters(model)).items() if p.requires_grad}


def whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """The whole shape of a parameter, even if ZeRO-3 holds only a shard here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 holds only a shard of this parameter here."""
    return hasattr(parameter, "ds_id")


def gathered(parameters: list[nn.Parameter], write: bool = False) -> AbstractContextManager[object]:
    """A context in which the parameters are whole on every rank. `write`: rank 0's changes reach all ranks."""
    if not any(map(is_partitioned, parameters)):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write else None)
