"""The learner's part of a checkpoint: whole tensors in safetensors, the same under every ZeRO stage.

Weights and Adam's moments are gathered one tensor at a time, and rank 0 writes them under the names of published
checkpoints. So a checkpoint can be resumed with another number of ranks or another ZeRO stage, can
be exported without a GPU, and contains no pickle.

    weights-00000.safetensors …     every parameter, float32 if it is trained; with LoRA only the adapters
    exp_avg-00000.safetensors …     Adam's first moments of trained parameters
    exp_avg_sq-00000.safetensors …  Adam's second moments
    learner.json                    update count, policy version, LoRA's settings, torch's RNG state
"""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssr1_rl.errors import RunError, UserError
from ssr1_rl.files import write_json
from ssr1_rl.weights.parameters import gathered, named_weights, trainable_parameters, whole_shape

if TYPE_CHECKING:
    from ssr1_rl.trainer.trained_policy import TrainedPolicy

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")
SHARD_BYTES = 2 * 2**30


class AdapterShape(TypedDict):
    """Rank and alpha of LoRA's adapters."""

    rank: int
    alpha: float


class LearnerSettings(TypedDict):
    """Content of learner.json. `lora` is None without adapters."""

    num_updates: int
    policy_version: int
    lora: AdapterShape | None
    torch_rng: list[int]


def save_learner(learner: "TrainedPolicy", folder: Path) -> None:
    """Writes weights, optimizer and counters; a collective: every rank gathers, rank 0 writes."""
    if learner.rank == 0 and not folder.is_dir():
        raise RunError(
            f"learner rank 0 runs on {socket.gethostname()}, where the checkpoint folder {folder} does not exist; "
            "set run.dir to a file system that every node shares"
        )
    writer = ShardWriter(folder, SHARD_BYTES, writes=learner.rank == 0)
    trained = trainable_parameters(learner.model)
    for name, parameter in (trained if learner.lora.rank else named_weights(learner.model)).items():
        if name in trained:
            writer.add(WEIGHTS, name, _in_optimizer(learner, parameter, WEIGHTS))
        else:
            with gathered([parameter]):
                writer.add(WEIGHTS, name, parameter)
    _link_moments(learner)
    for moment in MOMENTS if learner.num_updates else ():
        for name, parameter in trained.items():
            writer.add(moment, name, _in_optimizer(learner, parameter, moment))
    writer.flush()
    if learner.rank == 0:
        state: LearnerSettings = {
            "num_updates": learner.num_updates,
            "policy_version": learner.policy_version,
            "lora": _adapter_shape(learner),
            "torch_rng": torch.get_rng_state().tolist(),
        }
        write_json(folder / "learner.json", state)
    dist.barrier()


def load_learner(learner: "TrainedPolicy", folder: Path) -> None:
    """Restores what `save_learner` wrote; a collective.

    Raises:
        ValueError: the checkpoint belongs to a model with other parameters, or has other adapters.
    """
    state = learner_settings(folder)
    if state["lora"] != _adapter_shape(learner):
        raise UserError(
            f"checkpoint {folder} was written with model.lora {state['lora'] or 'off'}, but this run has "
            f"{_adapter_shape(learner) or 'off'}; restore model.lora, or set another run.dir"
        )
    trained = trainable_parameters(learner.model)
    weights = trained if learner.lora.rank else named_weights(learner.model)
    stored = dict(_tensors_of(folder, WEIGHTS))
    _check_same_parameters(folder, {n: whole_shape(p) for n, p in weights.items()}, stored)
    learner.num_updates, learner.policy_version = state["num_updates"], state["policy_version"]
    torch.set_rng_state(torch.tensor(state["torch_rng"], dtype=torch.uint8))
    for name, parameter in weights.items():
        value = _read(stored[name], name).to(learner.engine.device)
        with gathered([parameter], write=True), torch.no_grad():
            parameter.copy_(value)
        if name in trained:
            _set_in_optimizer(learner, parameter, WEIGHTS, value)
    if learner.num_updates:
        _create_moments(learner)
        for moment in MOMENTS:
            files = dict(_tensors_of(folder, moment))
            for name, parameter in trained.items():
                value = _read(files[name], name).to(learner.engine.device)
                _set_in_optimizer(learner, parameter, moment, value)
    dist.barrier()


def learner_settings(folder: Path) -> LearnerSettings:
    """Reads learner.json."""
    return json.loads((folder / "learner.json").read_text())


def _adapter_shape(learner: "TrainedPolicy") -> AdapterShape | None:
    return {"rank": learner.lora.rank, "alpha": learner.lora.alpha} if learner.lora.rank else None


def _in_optimizer(learner: "TrainedPolicy", parameter: torch.nn.Parameter, kind: str) -> Tensor:
    """A trained parameter's whole float32 value (`WEIGHTS`), or one of its `MOMENTS`; a collective."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not _has_zero_optimizer(learner):
        return parameter.detach().float() if kind == WEIGHTS else learner.engine.optimizer.state[parameter][kind]
    value = safe_get_full_fp32_param(parameter) if kind == WEIGHTS else safe_get_full_optimizer_state(parameter, kind)
    assert value is not None, "ZeRO holds a float32 copy of every trained parameter, and its moments after an update"
    return value


def _set_in_optimizer(learner: "TrainedPolicy", parameter: torch.nn.Parameter, kind: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if not _has_zero_optimizer(learner):
        if kind in MOMENTS:  # the weights are the parameters themselves
            learner.engine.optimizer.state[parameter][kind].copy_(value)
    elif kind == WEIGHTS:
        safe_set_full_fp32_param(parameter, value.float())
    else:
        safe_set_full_optimizer_state(parameter, value, kind)


def _has_zero_optimizer(learner: "TrainedPolicy") -> bool:
    return hasattr(learner.engine.optimizer, "optimizer")


def _create_moments(learner: "TrainedPolicy") -> None:
    """Creates AdamW's state, which torch and DeepSpeed otherwise create in the first step."""
    outer = learner.engine.optimizer
    inner = outer.optimizer if _has_zero_optimizer(learner) else outer
    if hasattr(outer, "fp32_partitioned_groups_flat"):  # ZeRO-3 gives the inner optimizer one subgroup at a time
        flat = list(outer.fp32_partitioned_groups_flat)
    else:
        flat = [parameter for group in inner.param_groups for parameter in group["params"]]
    for parameter in flat:
        inner.state[parameter] = {
            "step": torch.tensor(float(learner.num_updates), device=parameter.device),  # where fused AdamW needs it
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    _link_moments(learner)


def _link_moments(learner: "TrainedPolicy") -> None:
    """Links each parameter to its fragments of the moments; ZeRO-1 and 2 read and write them through these links.

    DeepSpeed links all parameter groups after the first step of the first group, when the others have no moments yet.
    """
    optimizer = learner.engine.optimizer
    if learner.num_updates and hasattr(optimizer, "_lazy_init_hp_params_optimizer_state"):
        optimizer._hp_optimizer_states_linked = False
        optimizer._lazy_init_hp_params_optimizer_state()


class ShardWriter:
    """If `writes`, writes tensors to safetensors files of at most `max_bytes`, or of one larger tensor.

    Attributes:
        shards: each file written, with the names of its tensors.
    """

    def __init__(self, folder: Path, max_bytes: int, writes: bool = True) -> None:
        self.shards: list[tuple[Path, list[str]]] = []
        self._folder, self._max_bytes, self._writes = folder, max_bytes, writes
        self._kind, self._index, self._bytes = "", 0, 0
        self._tensors: dict[str, Tensor] = {}

    def add(self, kind: str, name: str, tensor: Tensor) -> None:
        if not self._writes:
            return
        if kind != self._kind:
            self.flush()
            self._kind, self._index = kind, 0
        elif self._bytes + tensor.nbytes > self._max_bytes and self._tensors:
            self.flush()
        self._tensors[name] = _on_host(tensor.detach())
        self._bytes += tensor.nbytes

    def flush(self) -> None:
        if self._tensors:
            path = self._folder / f"{self._kind}-{self._index:05d}.safetensors"
            save_file(self._tensors, path, metadata={"format": "pt"})
            self.shards.append((path, list(self._tensors)))
        self._tensors, self._bytes, self._index = {}, 0, self._index + 1


def _on_host(tensor: Tensor) -> Tensor:
    """A contiguous copy in host memory; of a GPU's tensor in pinned memory, which the GPU writes to at full speed."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor)  # waits: the source is a gathered parameter that is freed next


def _tensors_of(folder: Path, kind: str) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.glob(f"{kind}-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, path) for name in file.keys())  # noqa: SIM118 (safe_open is not a mapping)


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)


def saved_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a saved learner state by name: all of them, or with LoRA only those of the adapters."""
    for name, path in _tensors_of(folder, WEIGHTS):
        yield name, _read(path, name)


def _check_same_parameters(folder: Path, expected: dict[str, tuple[int, ...]], stored: dict[str, Path]) -> None:
    strange = sorted(expected.keys() ^ stored.keys())
    if strange:
        raise UserError(
            f"checkpoint {folder} does not belong to this model: {len(strange)} parameters differ, "
            f"for example {strange[0]}; set model.path and model.lora as the run started, or set another run.dir"
        )
    for name, shape in expected.items():
        with safe_open(stored[name], framework="pt") as file:
            found = tuple(file.get_slice(name).get_shape())
        if found != shape:
            raise UserError(f"{folder} does not fit: {name} is {found} there, {shape} here; restore model.path")
