"""Writes the policy of a checkpoint as a Hugging Face folder that transformers and vLLM both load."""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssr1_rl.config.model_path import check_model_folder
from ssr1_rl.errors import UserError
from ssr1_rl.files import SET_ASIDE, SET_ASIDE_NAME, whole_folder
from ssr1_rl.store.checkpoints import Checkpoint, best_of, list_checkpoints
from ssr1_rl.trainer.learner_state import AdapterShape, ShardWriter, learner_settings, saved_weights
from ssr1_rl.trainer.model.lora import add_adapters
from ssr1_rl.weights.adapters import adapted_modules, merged_weights
from ssr1_rl.weights.parameters import named_adapters

SHARD_BYTES = 4 * 2**30
WEIGHT_FILES = (".safetensors", ".bin", ".pt", ".pth", ".index.json", ".gguf", ".msgpack", ".h5")


def export_checkpoint(checkpoint: Checkpoint, base_model: str, output: Path, dtype: str, adapter: bool = False) -> None:
    """Writes the policy of a checkpoint as a model folder; adapters are merged into the base model's weights.

    Configuration, tokenizer and processor are copied from `base_model`, the folder (or hub name) that the run started
    from. With `adapter` only the LoRA adapter is written, as a folder that peft loads onto the base model.

    Raises:
        DamagedCheckpoint: the checkpoint differs from its manifest.
        ValueError: `output` exists and is not empty, the dtype is unknown, or the checkpoint has no adapter.
    """
    if dtype not in ("bfloat16", "float32"):
        raise UserError(f"--dtype must be bfloat16 or float32, got {dtype!r}")
    checkpoint.verify()
    lora, weights = learner_settings(checkpoint.learner)["lora"], saved_weights(checkpoint.learner)
    torch_dtype = getattr(torch, dtype)
    if adapter:
        if lora is None:
            raise UserError(f"{checkpoint.path} holds no adapter (model.lora.rank=0); export it without --adapter")
        with whole_folder(output) as folder:
            _write_adapter_folder(base_model, lora, dict(weights), folder, torch_dtype)
    elif lora is not None:
        merged = _merged(base_model, lora["rank"], lora["alpha"], dict(weights), torch_dtype)
        write_model_folder(base_model, merged, output, torch_dtype)
    else:
        write_model_folder(base_model, weights, output, torch_dtype)


def base_model_folder(run_dir: Path, model_path: str, configured_dir: str) -> str:
    """The base model (`model.path`) of the run that is now in `run_dir`, found from any working directory.

    A relative path belongs to the directory that the run was started in. That directory follows from `configured_dir`
    (`run.dir`), unless the run's folder was moved. `run_dir` may also be a folder of a run's `set_aside/`.

    Raises:
        ValueError: `model_path` is neither an existing folder nor a hub name.
    """
    path, end = Path(model_path), Path(configured_dir)
    if path.is_absolute():
        candidates = [path]
    else:
        here = run_dir.resolve()
        if here.parent.name == SET_ASIDE and SET_ASIDE_NAME.fullmatch(here.name):
            here = here.parent.parent
        moved = end.is_absolute() or here.parts[-len(end.parts) :] != end.parts
        candidates = [path] if moved else [Path(*here.parts[: -len(end.parts)]) / path, path]
    for candidate in candidates:
        if candidate.is_dir():
            return str(candidate)
    try:
        check_model_folder(model_path)
    except UserError as error:
        raise UserError(
            f"{error} (the base model of {run_dir}; searched in {' and '.join(str(c.parent) for c in candidates)}. "
            "If it is relative to the directory that the run was started in, run the export from there)"
        ) from error
    return model_path


def _merged(
    base_model: str, rank: int, alpha: float, adapters: Mapping[str, Tensor], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The base model's weights with the adapters merged in, as engines of this dtype received them."""
    from ssr1_rl.trainer.model.families import load_model

    model = load_model(base_model, dtype, "sdpa")
    add_adapters(model, rank, alpha, adapted_modules(adapters))
    with torch.no_grad():
        for name, parameter in named_adapters(model).items():
            parameter.copy_(adapters[name])
    yield from merged_weights(model)


def _write_adapter_folder(
    base_model: str, lora: AdapterShape, tensors: Mapping[str, Tensor], output: Path, dtype: torch.dtype
) -> None:
    """Writes adapter parameters (by name, as in `named_adapters`) as a folder that peft adds to the base model."""
    from peft import LoraConfig

    shape = {"r": lora["rank"], "lora_alpha": lora["alpha"], "target_modules": adapted_modules(tensors)}
    config = LoraConfig(**shape, base_model_name_or_path=base_model, inference_mode=True)
    config.save_pretrained(str(output))
    named = {f"base_model.model.{name}": tensor.to(dtype).contiguous() for name, tensor in tensors.items()}
    save_file(named, output / "adapter_model.safetensors", metadata={"format": "pt"})


def write_model_folder(
    base_model: str, weights: Iterable[tuple[str, Tensor]], output: Path, dtype: torch.dtype
) -> None:
    """Writes `weights` (by checkpoint name) beside copies of the base model's other files.

    `save_pretrained` is not used: it gives Qwen2-Audio's tensors names that vLLM cannot read. transformers and vLLM
    both read the published names.

    Raises:
        UserError: `output` exists and is not empty.
    """
    with whole_folder(output) as folder:
        base = _local_folder(base_model)
        for path in base.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHT_FILES):
                shutil.copy(path, folder / path.name)
        _set_dtype(folder / "config.json", str(dtype).removeprefix("torch."))
        _write_shards(folder, weights, dtype)


def _local_folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, ignore_patterns=[f"*{suffix}" for suffix in WEIGHT_FILES]))


def _set_dtype(config_path: Path, dtype: str) -> None:
    config = json.loads(config_path.read_text())
    sections = [config]
    for section in sections:
        sections += [inner for inner in section.values() if isinstance(inner, dict)]
        for key in ("dtype", "torch_dtype"):
            if key in section:
                section[key] = dtype
    config_path.write_text(json.dumps(config, indent=2) + "\n")


def _write_shards(folder: Path, weights: Iterable[tuple[str, Tensor]], dtype: torch.dtype) -> None:
    """Writes shards of at most `SHARD_BYTES` and their index, under the names that transformers expects."""
    writer = ShardWriter(folder, SHARD_BYTES)
    total = 0
    for name, tensor in weights:
        writer.add("model", name, tensor.to(dtype))
        total += tensor.numel() * dtype.itemsize
    writer.flush()
    if len(writer.shards) == 1:
        writer.shards[0][0].rename(folder / "model.safetensors")
        return
    index = {}
    for number, (path, names) in enumerate(writer.shards, start=1):
        file_name = f"model-{number:05d}-of-{len(writer.shards):05d}.safetensors"
        path.rename(folder / file_name)
        index |= dict.fromkeys(names, file_name)
    content = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")


def choose_checkpoint(run_dir: Path, which: str) -> Checkpoint:
    """The run's checkpoint that `which` names: "last", "best" (the last if none was validated) or a step number.

    Raises:
        ValueError: the run has no such checkpoint; the message lists those that it has.
    """
    checkpoints = list_checkpoints(run_dir)
    if not checkpoints:
        raise UserError(f"{run_dir} holds no checkpoint yet; wait for its first one (checkpoint.every)")
    if which == "last":
        return checkpoints[-1]
    if which == "best":
        return best_of(checkpoints) or checkpoints[-1]
    for checkpoint in checkpoints:
        if str(checkpoint.step) == which:
            return checkpoint
    steps = ", ".join(str(checkpoint.step) for checkpoint in checkpoints)
    raise UserError(f"{run_dir} has no checkpoint of step {which}; choose one of: last, best, {steps}")
