"""Low-rank adapters (LoRA, arXiv 2106.09685) in a policy: put in place, switched off, merged, written.

An adapter adds alpha / rank · B A x to what its linear layer gives, with A [rank, in] and B [out, rank].
peft puts them into the model in place, so the paths of all other modules stay as they are. Engines and
exports get merged weights, W + alpha / rank · B A (section 4.1): nothing there needs to know of adapters.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ssr1_rl.weights.parameters import ADAPTER, checkpoint_name, named_weights


def add_adapters(model: Any, rank: int, alpha: float, modules: Sequence[str]) -> None:
    """Gives the linear layers called `modules` an adapter each and freezes everything else.

    The policy stays what it was: A is random (from torch's generator), B is 0.
    """
    from peft import inject_adapter_in_model

    inject_adapter_in_model(_peft_config(rank, alpha, modules), model, ADAPTER)
    found = {name for name, _ in _adapted_layers(model)}
    assert found == set(modules), f"peft gave adapters to other layers: {sorted(found ^ set(modules))}"


def find_targets(model: Any, target_modules: Iterable[str]) -> list[str]:
    """Full names of the trained linear layers whose names end in one of `target_modules`.

    Call it before adapters are added, while `requires_grad` says which parts are to be trained.

    Raises:
        ValueError: one of them names no such layer; says which there are.
    """
    head = model.get_output_embeddings()
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    usable = [name for name, layer in linear.items() if layer.weight.requires_grad and layer is not head]
    found: dict[str, None] = {}
    for target in target_modules:
        matching = [name for name in usable if f".{name}".endswith(f".{target}")]
        if not matching:
            raise ValueError(_no_such_layer(target, usable, frozen=linear.keys() - set(usable)))
        found |= dict.fromkeys(matching)
    return list(found)


def _no_such_layer(target: str, usable: Sequence[str], frozen: Iterable[str]) -> str:
    known = sorted({name.rpartition(".")[2] for name in usable})
    if any(f".{name}".endswith(f".{target}") for name in frozen):
        return (
            f"model.lora.target_modules names {target!r}, which can have no adapter: it is the log-prob head, or lies "
            f"in the audio tower that model.train_audio_tower=false freezes; there are: {', '.join(known)}"
        )
    near = difflib.get_close_matches(target, known, n=1)
    hint = f"did you mean {near[0]}? There are" if near else "there are"
    return f"model.lora.target_modules names {target!r}, but no linear layer is called so; {hint}: {', '.join(known)}"


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """Within it the model is the frozen base."""
    layers = [layer for _, layer in _adapted_layers(model)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def adapters_by_weight(model: Any) -> dict[str, Any]:
    """peft's layers, under the checkpoint name of the weight that each adapts; empty without adapters."""
    kind = model.config.model_type
    return {checkpoint_name(f"{name}.weight", kind): layer for name, layer in _adapted_layers(model)}


def adapter_parameters(layer: Any) -> list[nn.Parameter]:
    """A and B of an adapted layer."""
    return [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]


def merged(weight: Tensor, layer: Any) -> Tensor:
    """A new tensor W + alpha / rank · B A: computed in float32, then rounded once to W's dtype."""
    a, b = (parameter.detach().float() for parameter in adapter_parameters(layer))
    return torch.add(weight.detach().float(), b @ a, alpha=layer.scaling[ADAPTER]).to(weight.dtype)


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Every weight with its adapter merged in, by checkpoint name; for a whole model in one place."""
    adapters = adapters_by_weight(model)
    for name, weight in named_weights(model).items():
        yield name, merged(weight, adapters[name]) if name in adapters else weight.detach()


def adapted_modules(names: Iterable[str]) -> list[str]:
    """The modules that adapter parameters of these names belong to."""
    return sorted({name.rpartition(".lora_")[0] for name in names})


def write_adapter_folder(
    base_model: str, lora: Mapping[str, Any], tensors: Mapping[str, Tensor], output: Path, dtype: torch.dtype
) -> None:
    """Writes adapter parameters as a folder that `peft.PeftModel.from_pretrained` puts on the base model.

    Args:
        base_model: what the adapter belongs on, noted in its configuration.
        lora: its rank and alpha.
        tensors: by name, as `named_adapters` gives them.
        output: an existing folder.
        dtype: of the written tensors.
    """
    config = _peft_config(lora["rank"], lora["alpha"], adapted_modules(tensors))
    config.base_model_name_or_path = base_model
    config.inference_mode = True
    config.save_pretrained(str(output))
    named = {f"base_model.model.{name}": tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(named, output / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_config(rank: int, alpha: float, modules: Sequence[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(modules), lora_dropout=0.0, bias="none")  # type: ignore[arg-type]


def _adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))
