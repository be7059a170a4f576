"""A `gloo` backend for vLLM's weight-transfer protocol, so that CPUs run the same path as `nccl` on GPUs.

Tensors are sent in buckets: consecutive parameters of one dtype, flattened into one broadcast. Both sides cut the
buckets from the same metadata, so a sync needs no message besides the one that starts it.

vLLM's engines run in processes of their own, which find this module through the entry point `ssr1_rl` of the group
`vllm.general_plugins`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Self

import torch
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import BroadcastOptions
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo

from ssr1_rl.errors import PeerLost, RunError

BUCKET_BYTES = 64 * 2**20
"""Most bytes of one broadcast. A larger tensor is sent alone."""


def register() -> None:
    """Registers `gloo` with vLLM's factories; a second call in the same process does nothing."""
    if "gloo" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("gloo", GlooWeightTransferEngine)
    if "gloo" not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine("gloo", GlooTrainerWeightTransferEngine)


@dataclass
class GlooInitInfo(WeightTransferInitInfo):
    """How a process of an engine joins the transfer group."""

    master_address: str
    master_port: int
    rank_offset: int
    world_size: int
    timeout_s: float


@dataclass
class GlooTrainerInitInfo(TrainerInitInfo):
    """How the learners join the transfer group; only rank 0 does."""

    backend: ClassVar[str] = "gloo"

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float


def cut_buckets(metadata: Sequence[ParamMeta], bucket_bytes: int = BUCKET_BYTES) -> Iterator[list[ParamMeta]]:
    """Cuts consecutive parameters of one dtype into buckets of at most `bucket_bytes`, or of one larger tensor."""
    bucket: list[ParamMeta] = []
    size = 0
    for meta in metadata:
        num_bytes = torch.Size(meta.shape).numel() * meta.dtype.itemsize
        if bucket and (size + num_bytes > bucket_bytes or meta.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(meta)
        size += num_bytes
    if bucket:
        yield bucket


def _broadcast(group: ProcessGroup | None, tensor: torch.Tensor) -> None:
    assert group is not None, "the transfer group is formed before anything is sent"
    options = BroadcastOptions()
    options.rootRank = 0
    options.rootTensor = 0
    try:
        work = group.broadcast([tensor], options)
        assert work is not None, "gloo broadcasts always return a work handle"
        work.wait()
    except RuntimeError as error:  # a closed connection or a time-out; gloo does not say of whom
        raise PeerLost(f"a broadcast of the weight transfer failed ({error})") from error


def _join(info: GlooInitInfo | GlooTrainerInitInfo, rank: int) -> ProcessGroup:
    timeout = timedelta(seconds=info.timeout_s)
    try:
        group = stateless_init_torch_distributed_process_group(
            info.master_address, info.master_port, rank, info.world_size, "gloo", timeout=timeout
        )
    except (RuntimeError, TimeoutError) as error:  # what torch raises for both; it does not say who is missing
        raise PeerLost(
            f"rank {rank} of {info.world_size} could not join the weight-transfer group at "
            f"{info.master_address}:{info.master_port} ({error})"
        ) from error
    assert isinstance(group, ProcessGroup)
    return group


class GlooWeightTransferEngine(WeightTransferEngine[GlooInitInfo, NCCLWeightTransferUpdateInfo]):
    """The engine's side: receives buckets and loads them with vLLM's layerwise reload, as the nccl backend does."""

    init_info_cls = GlooInitInfo
    update_info_cls = NCCLWeightTransferUpdateInfo
    _group: ProcessGroup | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        """Joins the transfer group; blocks until learner rank 0 has joined."""
        parallel = self.parallel_config
        rank = init_info.rank_offset + parallel.data_parallel_index * parallel.world_size + parallel.rank
        self._group = _join(init_info, rank)

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, object]) -> None:
        """Receives the weights, without vLLM's accelerator synchronisation, which fails on a CPU."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receives every bucket in order and loads its tensors into the model."""
        metadata = [
            ParamMeta(name, getattr(torch, dtype), tuple(shape))
            for name, dtype, shape in zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        ]
        for bucket in cut_buckets(metadata):
            sizes = [torch.Size(m.shape).numel() for m in bucket]
            flat = torch.empty(sum(sizes), dtype=bucket[0].dtype)
            _broadcast(self._group, flat)
            parts = zip(bucket, flat.split(sizes), strict=True)
            tensors = [(m.name, part.view(m.shape).to(self.device)) for m, part in parts]
            self.model.load_weights(tensors)  # type: ignore[operator]

    def shutdown(self) -> None:
        self._group = None


class GlooTrainerWeightTransferEngine(TrainerWeightTransferEngine[GlooTrainerInitInfo]):
    """The learners' side. Every rank iterates the source (a collective); rank 0 alone sends.

    It does not call the engines: the caller of `send_weights` calls them at the same time.
    """

    init_info_cls = GlooTrainerInitInfo
    _group: ProcessGroup | None = None

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInitInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        """Forms the transfer group; rank 0 blocks until every engine has joined."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender)
        if init_info.is_sender:
            engine._group = _join(init_info, rank=0)
        return engine

    def send_weights(self) -> None:
        """Sends every tensor of the source to every engine, in one round."""
        assert self.source is not None, "the gloo backend sends the whole source each round"
        if self.is_sender:
            self._send(self.source.metadata(), self.source)
        else:
            for _ in self.source:
                pass

    def _send(self, metadata: Sequence[ParamMeta], source: Iterable[tuple[str, torch.Tensor]]) -> None:
        tensors = iter(source)
        for bucket in cut_buckets(metadata):
            parts = []
            for meta in bucket:
                name, tensor = next(tensors, (None, None))
                if tensor is None:
                    raise _not_as_announced(f"they end before {meta.name}")
                if (name, tensor.dtype, tuple(tensor.shape)) != (meta.name, meta.dtype, meta.shape):
                    raise _not_as_announced(f"{name} {tensor.dtype} {tuple(tensor.shape)} is sent for {meta}")
                parts.append(tensor.detach().reshape(-1).cpu())
            _broadcast(self._group, torch.cat(parts))
        # Iterate to the end: gathering the last tensors is a collective too.
        if (extra := next(tensors, None)) is not None:
            raise _not_as_announced(f"{extra[0]} follows the last one")


def _not_as_announced(how: str) -> RunError:
    return RunError(
        f"the learner's weights are not those that were announced to the engines: {how}. This is a bug of ssr1_rl: "
        "report it with model.path and model.lora"
    )
