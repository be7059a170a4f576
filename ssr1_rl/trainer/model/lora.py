"""Low-rank adapters (LoRA, arXiv 2106.09685) in a policy: finds their layers, adds them, and switches them off.

peft changes the model in place, so all other modules keep their names. `ssr1_rl.weights.adapters` merges adapters
into the weights that engines and exports get.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from ssr1_rl.errors import ConfigError
from ssr1_rl.weights.adapters import adapted_layers
from ssr1_rl.weights.parameters import ADAPTER

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def add_adapters(model: "PreTrainedModel", rank: int, alpha: float, modules: Sequence[str]) -> None:
    """Adds an adapter to each of the linear layers named in `modules`, and freezes everything else.

    The outputs do not change yet: A is random (from torch's generator), B is 0.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules), lora_dropout=0.0, bias="none")  # pyright: ignore[reportArgumentType]
    inject_adapter_in_model(config, model, ADAPTER)
    found = {name for name, _ in adapted_layers(model)}
    assert found == set(modules), f"peft gave adapters to other layers: {sorted(found ^ set(modules))}"


def find_targets(model: "PreTrainedModel", target_modules: Iterable[str]) -> list[str]:
    """Full names of the trainable linear layers whose names end in one of `target_modules`.

    Call it before adapters are added: it reads from `requires_grad` which parts may be trained.

    Raises:
        ValueError: an entry matches no such layer; the message lists the layers that exist.
    """
    head = model.get_output_embeddings()
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    usable = [name for name, layer in linear.items() if layer.weight.requires_grad and layer is not head]
    found: dict[str, None] = {}
    for target in target_modules:
        matching = [name for name in usable if f".{name}".endswith(f".{target}")]
        if not matching:
            raise ConfigError(_no_such_layer(target, usable, frozen=linear.keys() - set(usable)))
        found |= dict.fromkeys(matching)
    return list(found)


def _no_such_layer(target: str, usable: Sequence[str], frozen: Iterable[str]) -> str:
    known = sorted({name.rpartition(".")[2] for name in usable})
    if any(f".{name}".endswith(f".{target}") for name in frozen):
        return (
            f"model.lora.target_modules names {target!r}, which cannot have an adapter: it is the log-prob head, or is "
            f"in the tower that model.train_audio_tower=false freezes; there are: {', '.join(known)}"
        )
    near = difflib.get_close_matches(target, known, n=1)
    hint = f"did you mean {near[0]}? There are" if near else "there are"
    return f"model.lora.target_modules names {target!r}, but no linear layer has this name; {hint}: {', '.join(known)}"


@contextmanager
def adapters_off(model: "PreTrainedModel") -> Iterator[None]:
    """A context in which the adapters are switched off, so the model computes what its frozen base computes."""
    layers = [layer for _, layer in adapted_layers(model)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
