"""How learners and engines form a group for the weight sync; nccl is vLLM's backend, gloo is in `weights/gloo.py`.

Rank 0 of the transfer group is learner rank 0, which sends; the engines' processes follow. The controller starts
both sides, so that no learner holds an engine's handle.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine, WeightSource


def transfer_backend(device: str, weight_transfer: str) -> str:
    """The backend that `rollout.weight_transfer` selects on this device."""
    if weight_transfer != "auto":
        return weight_transfer
    return "gloo" if device == "cpu" else "nccl"


@dataclass(frozen=True)
class Rendezvous:
    """Describes the transfer group for those who join it.

    Attributes:
        backend: "nccl" or "gloo".
        address, port: where learner rank 0 waits for the engines.
        world_size: the sender and every process of every engine.
        timeout_s: longest wait of one gloo operation. NCCL has none.
    """

    backend: str
    address: str
    port: int
    world_size: int
    timeout_s: float

    def of_engine(self, rank_offset: int) -> dict[str, object]:
        """The init info of a vLLM engine, whose first process has rank `rank_offset` in the group."""
        info: dict[str, object] = {
            "master_address": self.address,
            "master_port": self.port,
            "rank_offset": rank_offset,
            "world_size": self.world_size,
        }
        return info | ({"timeout_s": self.timeout_s} if self.backend == "gloo" else NCCL_PACKING)


NCCL_BUFFER_BYTES = 256 * 2**20
"""A broadcast over NCCL ends with the tensor that exceeds this size."""

NCCL_PACKING: dict[str, object] = {
    "packed": True,
    "packed_buffer_size_bytes": NCCL_BUFFER_BYTES,
    "packed_num_buffers": 1,
}
"""How tensors are packed into broadcasts over NCCL; both sides must agree.

One small buffer, because engines allocate it outside `rollout.gpu_memory_utilization` (vLLM's default is two of 1 GiB).
A second one would overlap little, because the weight source waits for the GPU at every layer group.
"""


def join_as_learner(rendezvous: Rendezvous, rank: int, source: WeightSource) -> TrainerWeightTransferEngine:
    """Joins as learner rank `rank`. Rank 0 waits for the engines, which must join at the same time."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    at = (rendezvous.address, rendezvous.port, rendezvous.world_size)
    if rendezvous.backend == "gloo":
        from ssr1_rl.weights.gloo import GlooTrainerInitInfo, register

        register()
        info = GlooTrainerInitInfo(*at, timeout_s=rendezvous.timeout_s, rank=rank)
    else:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info = NCCLTrainerInitInfo(*at, **NCCL_PACKING, rank=rank)  # type: ignore[arg-type]
    with keeping_the_stream(rendezvous.backend):
        return WeightTransferTrainerFactory.trainer_init(info, client=_ControllerCallsEngines(), source=source)


def keeping_the_stream(backend: str) -> AbstractContextManager[object]:
    """A context after which the thread's current CUDA stream is the same as before.

    vLLM's first NCCL operation in a thread makes a new stream the current one, unless one was set explicitly after
    vLLM's import. The learner would then compute on a stream that DeepSpeed did not start on.
    """
    if backend != "nccl":
        return nullcontext()
    import torch

    return torch.cuda.stream(torch.cuda.current_stream())


class _ControllerCallsEngines:
    """The client that vLLM's sender needs. It does nothing: the controller calls the engines at the same time."""

    def init_weight_transfer_engine(self, init_info: dict[str, object]) -> None: ...

    def start_weight_update(self) -> None: ...

    def update_weights(self, update_info: object) -> None: ...

    def finish_weight_update(self, weight_version: str | None = None) -> None: ...
