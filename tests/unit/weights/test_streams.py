"""The order of work on CUDA streams in a weight sync, with streams replaced by records of what runs on them.

vLLM packs tensors on streams of its own, and CUDA orders nothing between streams that no one synchronises.
"""

import contextlib
from types import SimpleNamespace

import pytest
import torch
import vllm.distributed.weight_transfer.packed_tensor as packed_tensor
import vllm.utils.torch_utils as vllm_torch
from torch import nn
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

from ssr1_rl.weights import source as weight_source
from ssr1_rl.weights.source import ZeroWeightSource
from ssr1_rl.weights.transport import NCCL_PACKING, Rendezvous, join_as_learner


class Model(nn.Module):
    """Names as in a checkpoint: embeddings, three layers, and a last group of one small and one large tensor."""

    config = SimpleNamespace(model_type="text")

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(10, 10, bias=False)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(3)])
        self.norm = nn.Linear(4, 1, bias=False)
        self.lm_head = nn.Linear(10, 10, bias=False)


class Gpu:
    """Records, in order, writes and reads of tensors, synchronisations, and when memory may be used again."""

    def __init__(self, monkeypatch):
        self.current, self.log = "default", []
        streams = tuple(Stream(self, f"stream {i}") for i in range(3))
        monkeypatch.setattr(packed_tensor, "_get_streams", lambda device, number: streams[:number])
        monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)
        monkeypatch.setattr(torch.cuda, "stream", self.use)
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: self.log.append(("sync", "device")))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(self, self.current))
        pack = packed_tensor.pack_tensors

        def packing(*args, **options):
            chunk = pack(*args, **options)
            self.log += [("read", name, self.current) for name in (chunk.names if chunk else ())]
            return chunk

        monkeypatch.setattr(packed_tensor, "pack_tensors", packing)

    @contextlib.contextmanager
    def use(self, stream):
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def reads_before_writes(self):
        """Tensors that a stream reads, although another stream may still be writing them."""
        written, found = {}, []
        for at, (what, *of) in enumerate(self.log):
            if what == "write":
                written[of[0]] = at, of[1]
            elif what == "read":
                since, stream = written[of[0]]
                if stream != of[1] and not self.synchronised(stream, since, at):
                    found.append(of[0])
        return found

    def writes_before_reads(self):
        """Tensors whose memory may be written again, although another stream may still be reading them."""
        reads, found = [], []
        for at, (what, *of) in enumerate(self.log):
            if what == "read":
                reads.append((at, *of))
            elif what == "gather":
                found += [name for since, name, by in reads if by != of[0] and not self.synchronised(by, since, at)]
        return found

    def synchronised(self, stream, since, until):
        return any(("sync", who) in self.log[since:until] for who in ("device", stream))


class Stream:
    def __init__(self, gpu, name):
        self.gpu, self.name = gpu, name

    def synchronize(self):
        self.gpu.log.append(("sync", self.name))


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu(monkeypatch)

    @contextlib.contextmanager
    def gathered(parameters):
        gpu.log.append(("gather", gpu.current))
        yield

    whole = ZeroWeightSource._whole

    def making(self, name):
        gpu.log.append(("write", name, gpu.current))
        return whole(self, name)

    monkeypatch.setattr(weight_source, "gathered", gathered)
    monkeypatch.setattr(weight_source, "is_partitioned", lambda parameter: True)
    monkeypatch.setattr(weight_source, "_is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(ZeroWeightSource, "_whole", making)
    return gpu


@pytest.mark.parametrize("num_buffers", [1, 2, 3])
@pytest.mark.parametrize("buffer_bytes", [1, 300, 700, 10**9])
@pytest.mark.filterwarnings("ignore:Tensor")
def test_no_tensor_is_read_before_it_is_written_nor_overwritten_before_it_is_read(gpu, num_buffers, buffer_bytes):
    model, sent = Model(), []
    group = SimpleNamespace(broadcast=lambda tensor, src: sent.append(tensor))
    packed_tensor.packed_nccl_broadcast_producer(
        iter(ZeroWeightSource(model)), group, 0, lambda item: item[1], buffer_bytes, num_buffers
    )
    assert sum(len(tensor) for tensor in sent) == 4 * sum(p.numel() for p in model.parameters())
    assert sum(what == "read" for what, *_ in gpu.log) == len(list(model.parameters()))
    assert gpu.reads_before_writes() == []
    assert gpu.writes_before_reads() == []


def test_both_sides_pack_into_one_small_buffer():
    at_engine = Rendezvous("nccl", "10.0.0.1", 1, 9, 1.0).of_engine(3)
    assert NCCL_PACKING.items() <= at_engine.items()
    assert (at_engine["packed_num_buffers"], at_engine["packed_buffer_size_bytes"]) == (1, 256 * 2**20)


def test_ranks_that_do_not_send_gather_and_copy_nothing(gpu):
    model = Model()
    source = ZeroWeightSource(model, sends=False)
    assert list(source) == []
    assert [what for what, *_ in gpu.log] == ["gather"] * len(source.groups())
    assert [m.name for m in source.metadata()] == [m.name for m in ZeroWeightSource(model).metadata()]


def test_joining_the_engines_leaves_the_current_stream_as_it_was(monkeypatch):
    default = SimpleNamespace(name="default", device=0)
    now = {"stream": default}
    # vLLM's own function runs, on a platform that says it is CUDA.
    monkeypatch.setattr("vllm.platforms.current_platform", SimpleNamespace(is_rocm=bool, is_cuda=lambda: True))
    monkeypatch.setattr(vllm_torch, "_current_stream_tls", SimpleNamespace())
    monkeypatch.setattr(vllm_torch, "prev_set_stream", lambda stream: now.update(stream=stream))
    fresh = SimpleNamespace(name="fresh", device=0, wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: fresh)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: now["stream"])
    monkeypatch.setattr(torch.cuda, "_get_device_index", lambda *_: 0)
    used = []

    def trainer_init(info, client, source):
        used.append(vllm_torch.current_stream())

    monkeypatch.setattr(WeightTransferTrainerFactory, "trainer_init", trainer_init)
    join_as_learner(Rendezvous("nccl", "10.0.0.1", 1, 9, 1.0), 0, ZeroWeightSource(Model()))
    assert used == [default]
    assert now["stream"] is default
