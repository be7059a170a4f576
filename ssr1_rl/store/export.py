"""Policy -> a standard Hugging Face folder that transformers and vLLM both load."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssr1_rl.checks.preflight import check_model_folder
from ssr1_rl.config.schema import CheckpointConfig, Config
from ssr1_rl.store.checkpoints import Checkpoint, CheckpointStore
from ssr1_rl.trainer.learner_state import learner_settings, saved_weights
from ssr1_rl.trainer.model.lora import add_adapters
from ssr1_rl.weights.adapters import adapted_modules, merged_weights
from ssr1_rl.weights.parameters import named_adapters

SHARD_BYTES = 4 * 2**30
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".gguf", ".msgpack", ".h5")


def export_checkpoint(checkpoint: Checkpoint, base_model: str, output: Path, dtype: str, adapter: bool = False) -> None:
    """Writes the policy of a checkpoint as a model folder; adapters are merged into the base model's weights.

    Args:
        base_model: the folder (or hub name) that the run started from; its configuration,
            tokenizer and processor are taken over.
        dtype: of the written weights, "bfloat16" or "float32".
        adapter: write a LoRA adapter alone, as a folder for peft to put on the base model.

    Raises:
        DamagedCheckpoint: the checkpoint is not what was written.
        ValueError: `output` exists and is not empty, another dtype, or there is no adapter to write alone.
    """
    check_dtype(dtype)
    checkpoint.verify()
    lora, weights = learner_settings(checkpoint.learner)["lora"], saved_weights(checkpoint.learner)
    torch_dtype = getattr(torch, dtype)
    if adapter:
        if lora is None:
            raise ValueError(f"{checkpoint.path} holds no adapter (model.lora.rank=0); export it without --adapter")
        _make_empty(output)
        write_adapter_folder(base_model, lora, dict(weights), output, torch_dtype)
    elif lora is not None:
        write_model_folder(base_model, _merged(base_model, lora, dict(weights), torch_dtype), output, torch_dtype)
    else:
        write_model_folder(base_model, weights, output, torch_dtype)


def check_dtype(dtype: str) -> None:
    """Raises `ValueError` for a dtype that weights are not exported in."""
    if dtype not in ("bfloat16", "float32"):
        raise ValueError(f"--dtype must be bfloat16 or float32, got {dtype!r}")


def base_model_folder(run_dir: Path, config: Config) -> str:
    """The run's `model.path`, found from any working directory.

    A relative one is taken from where the run was started, which its run.dir tells while the folder still lies there.

    Raises:
        ValueError: no folder there, and no hub name either.
    """
    path, end = Path(config.model.path), Path(config.run.dir)
    if path.is_absolute():
        candidates = [path]
    else:
        here = run_dir.resolve()
        moved = end.is_absolute() or here.parts[-len(end.parts) :] != end.parts
        candidates = [path] if moved else [Path(*here.parts[: -len(end.parts)]) / path, path]
    for candidate in candidates:
        if candidate.is_dir():
            return str(candidate)
    try:
        check_model_folder(config.model.path)
    except ValueError as error:
        raise ValueError(
            f"{error} (it is the base of {run_dir}, looked for in {' and '.join(str(c.parent) for c in candidates)}: "
            "if it is relative to the directory that the run was started in, call the export from there)"
        ) from error
    return config.model.path


def _merged(
    base_model: str, lora: Mapping[str, Any], adapters: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The base model's weights with the saved adapters in them: the tensors that engines of this dtype were sent."""
    from ssr1_rl.trainer.model.families import load_model

    model = load_model(base_model, dtype, "sdpa")
    add_adapters(model, lora["rank"], lora["alpha"], adapted_modules(adapters))
    with torch.no_grad():
        for name, parameter in named_adapters(model).items():
            parameter.copy_(adapters[name])
    yield from merged_weights(model)


def write_adapter_folder(
    base_model: str, lora: Mapping[str, Any], tensors: Mapping[str, Tensor], output: Path, dtype: torch.dtype
) -> None:
    """Writes adapter parameters as a folder that `peft.PeftModel.from_pretrained` adds to the base model.

    Args:
        base_model: the model that the adapter was trained on; peft's configuration names it.
        lora: the adapter's rank and alpha.
        tensors: by name, as `named_adapters` gives them.
        output: an existing folder.
        dtype: of the written tensors.
    """
    from peft import LoraConfig

    shape = {"r": lora["rank"], "lora_alpha": lora["alpha"], "target_modules": adapted_modules(tensors)}
    config = LoraConfig(**shape, base_model_name_or_path=base_model, inference_mode=True)
    config.save_pretrained(str(output))
    named = {f"base_model.model.{name}": tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(named, output / "adapter_model.safetensors", metadata={"format": "pt"})


def write_model_folder(
    base_model: str, weights: Iterable[tuple[str, Tensor]], output: Path, dtype: torch.dtype
) -> None:
    """Writes `weights` (by checkpoint name) beside everything else that `base_model` holds.

    transformers' `save_pretrained` writes names for Qwen2-Audio that vLLM cannot read
    (as of 5.19); published names can be read by both.

    Raises:
        ValueError: `output` exists and is not empty.
    """
    _make_empty(output)
    base = _local_folder(base_model)
    for path in base.iterdir():
        if path.is_file() and not path.name.endswith(WEIGHT_FILES):
            shutil.copy(path, output / path.name)
    _set_dtype(output / "config.json", str(dtype).removeprefix("torch."))
    _write_shards(output, weights, dtype)


def _make_empty(output: Path) -> None:
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty; remove it, or export to another folder")
    output.mkdir(parents=True, exist_ok=True)


def _local_folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, ignore_patterns=[f"*{suffix}" for suffix in WEIGHT_FILES]))


def _set_dtype(config_path: Path, dtype: str) -> None:
    config: dict[str, Any] = json.loads(config_path.read_text())
    sections = [config]
    for section in sections:
        sections += [inner for inner in section.values() if isinstance(inner, dict)]
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = dtype
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def _write_shards(folder: Path, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """Shards of at most `SHARD_BYTES`, under the names that transformers expects, and their index."""
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        nonlocal pending, size
        save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(pending))
        pending, size = {}, 0

    for name, tensor in weights:
        tensor = tensor.detach().to("cpu", dtype).contiguous()
        if pending and size + tensor.nbytes > SHARD_BYTES:
            flush()
        pending[name] = tensor
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    index = {}
    for number, names in enumerate(shards):
        file_name = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"shard-{number}").rename(folder / file_name)
        index |= dict.fromkeys(names, file_name)
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")


def choose_checkpoint(run_dir: Path, config: CheckpointConfig, which: str) -> Checkpoint:
    """The run's checkpoint that `which` names: "last", "best" or a step number.

    Raises:
        ValueError: there is none such; the message lists those there are.
    """
    store = CheckpointStore(run_dir, config)
    there = store.all()
    if not there:
        raise ValueError(f"{run_dir} holds no checkpoint yet")
    if which == "last":
        return there[-1]
    if which == "best":
        return store.best() or there[-1]
    for checkpoint in there:
        if str(checkpoint.step) == which:
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in there)
    raise ValueError(f"{run_dir} has no checkpoint of step {which}; there are: last, best, {steps}")
