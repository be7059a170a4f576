"""The policy's parameters: their published names, which are trained, and whole tensors of ZeRO-3 shards.

transformers names parameters in memory unlike the checkpoints it reads; vLLM wants
the checkpoints' names, and so do exports and our own checkpoints.
"""

from contextlib import nullcontext
from typing import Any

import torch

_PUBLISHED_PREFIXES = {
    "qwen2_audio": (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.audio_tower.", "audio_tower."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ),
    # A checkpoint of Qwen2.5-Omni holds its talker and its speech decoder beside the thinker.
    "qwen2_5_omni_thinker": (("", "thinker."),),
}
"""For each model type that is named otherwise in memory: prefix in memory, and in published checkpoints."""


def checkpoint_name(name: str, model_type: str) -> str:
    """The published checkpoint's name of the in-memory parameter `name`."""
    if model_type not in _PUBLISHED_PREFIXES:
        return name
    for prefix, published in _PUBLISHED_PREFIXES[model_type]:
        if name.startswith(prefix):
            return published + name.removeprefix(prefix)
    raise AssertionError(f"{model_type} has no parameter {name}")


ADAPTER = "default"
"""peft's name of the one adapter that a policy may have; it is part of parameter names."""


def named_weights(model: Any) -> dict[str, torch.nn.Parameter]:
    """Every parameter of the published model under its checkpoint name; tied ones once, adapters not among them."""
    return {
        checkpoint_name(name.replace(".base_layer.", "."), model.config.model_type): p
        for name, p in model.named_parameters()
        if ".lora_" not in name
    }


def named_adapters(model: Any) -> dict[str, torch.nn.Parameter]:
    """Every adapter parameter under the name that peft's own files give it; empty without LoRA."""
    return {
        name.replace(f".{ADAPTER}.", "."): parameter for name, parameter in model.named_parameters() if ".lora_" in name
    }


def trainable_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The parameters that get a gradient: adapters, or else weights under their checkpoint names."""
    return {name: p for name, p in (named_weights(model) | named_adapters(model)).items() if p.requires_grad}


def whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """A parameter's shape, also where ZeRO-3 holds only a shard of it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def is_partitioned(parameter: torch.nn.Parameter) -> bool:
    """Whether ZeRO-3 holds only a shard of this parameter here."""
    return hasattr(parameter, "ds_id")


def gathered(parameters: list[torch.nn.Parameter], write: bool = False) -> Any:
    """A context in which the parameters are whole on every rank. `write`: rank 0's changes are kept."""
    if not any(map(is_partitioned, parameters)):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if write else None)
