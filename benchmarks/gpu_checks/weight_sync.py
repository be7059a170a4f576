"""The weight sync with the real protocol: shards of ZeRO-3, the real source, vLLM's sender and receiver.

On GPUs it goes over NCCL, on a CPU over gloo. The model has the proportions that matter for the order of work on CUDA
streams: many small layers, and a last group with a matrix much larger than a buffer.
"""

from types import SimpleNamespace
from typing import Any

from gpu_checks.processes import free_port, run_together
from gpu_checks.registry import need_gpus, num_gpus, only_gpu

NUM_ROUNDS = 5
SIZES = {"cuda": (12, 4096, 150_000), "cpu": (3, 64, 500)}
"""Layers, width and rows of the first and last matrix; on a GPU 2.7 GiB in all, 1.1 GiB of it in the last matrix."""


def run(device: str) -> str:
    """Sends changed weights several times and compares checksums of what was meant and what arrived."""
    if device == "cuda":
        need_gpus(2)
    num_senders = 2 if device == "cpu" or num_gpus() > 2 else 1
    peers, transfer = free_port(), free_port()
    calls = [(send, (rank, num_senders, peers, transfer, device)) for rank in range(num_senders)]
    places = [only_gpu(index) if device == "cuda" else {} for index in range(num_senders + 1)]
    sent, *_, arrived = run_together([*calls, (receive, (transfer, device))], places)
    for number, (expected, found) in enumerate(zip(sent, arrived, strict=True)):
        wrong = sorted(name for name in expected if found.get(name) != expected[name])
        assert not wrong, f"sync {number}: {len(wrong)} of {len(expected)} tensors differ on arrival: {wrong[:3]}"
    assert sent[0] != sent[1], "every round sends other weights"
    return f"{NUM_ROUNDS} syncs of {len(sent[0])} tensors from {num_senders} ZeRO-3 ranks arrived bit by bit"


def make_model(device: str) -> Any:
    """A model of torch's default dtype and device."""
    import torch

    num_layers, width, rows = SIZES[device]
    parts = {
        "embed_tokens": torch.nn.Embedding(rows, width),
        "layers": torch.nn.ModuleList([torch.nn.Linear(width, width) for _ in range(num_layers)]),
        "norm": torch.nn.Linear(width, 1, bias=False),
        "lm_head": torch.nn.Linear(width, rows, bias=False),
    }
    model = torch.nn.ModuleDict(parts)
    model.config = SimpleNamespace(model_type="text")  # pyright: ignore[reportAttributeAccessIssue]
    return model


def make_sharded_model(device: str, ranks: int) -> Any:
    """The model in bfloat16, of which every rank holds a shard."""
    import deepspeed
    import torch

    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": ranks,
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3},
    }
    with deepspeed.zero.Init(config_dict_or_path=settings, dtype=torch.bfloat16):
        return make_model(device)


def send(rank: int, ranks: int, peer_port: int, transfer_port: int, device: str) -> list[dict[str, str]]:
    """One learner rank: the checksums of what each round sends."""
    import torch

    from ssr1_rl.config.sections.learner import LearnerConfig
    from ssr1_rl.trainer.deepspeed_setup import RankSpec, join_peers
    from ssr1_rl.weights.source import ZeroWeightSource
    from ssr1_rl.weights.transport import join_as_learner

    join_peers(RankSpec(rank, ranks, "127.0.0.1", peer_port, device), LearnerConfig(num_threads=1))
    if device == "cuda":
        torch.cuda.set_device(0)
    model = make_sharded_model(device, ranks)
    transfer = join_as_learner(rendezvous(device, transfer_port), rank, ZeroWeightSource(model, sends=rank == 0))
    sent = []
    for number in range(NUM_ROUNDS):
        torch.manual_seed(100 * number + rank)
        for parameter in model.parameters():
            parameter.ds_tensor.normal_()
        sent.append(checksums(model))
        transfer.send_weights()
    return sent


def rendezvous(device: str, port: int) -> Any:
    """One sender and one receiver, on this machine."""
    from ssr1_rl.weights.transport import Rendezvous, transfer_backend

    return Rendezvous(transfer_backend(device, "auto"), "127.0.0.1", port, world_size=2, timeout_s=300.0)


def checksums(model: Any) -> dict[str, str]:
    """Checksums of the whole weights, gathered one by one and without the source that is tried here; a collective."""
    import deepspeed
    import torch

    from ssr1_rl.weights.audit import digest

    found = {}
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            if parameter.is_cuda:
                torch.cuda.synchronize()
            found[name] = digest(parameter)
    return found


def receive(port: int, device: str) -> list[dict[str, str]]:
    """An engine's process without its model: the checksums of what arrives in each round."""
    import torch
    from vllm.config import WeightTransferConfig
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from ssr1_rl.weights.audit import digest
    from ssr1_rl.weights.gloo import register

    register()
    arrived: dict[str, str] = {}
    model = SimpleNamespace(load_weights=lambda pairs: arrived.update((name, digest(t)) for name, t in pairs))
    alone = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
    place = torch.device(device, 0) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(place)
    group = rendezvous(device, port)
    engine = WeightTransferEngineFactory.create_engine(
        WeightTransferConfig(backend=group.backend),
        SimpleNamespace(parallel_config=alone, model_config=None),  # pyright: ignore[reportArgumentType]
        place,
        model,  # pyright: ignore[reportArgumentType]
    )
    engine.init_transfer_engine(engine.parse_init_info(group.of_engine(1)))
    rounds = []
    for _ in range(NUM_ROUNDS):
        arrived.clear()
        engine.update_weights(update_info(device))
        rounds.append(dict(arrived))
    return rounds


def update_info(device: str) -> dict[str, list[Any]]:
    """What an engine is told of the tensors."""
    import torch

    from ssr1_rl.weights.source import ZeroWeightSource

    with torch.device("meta"):
        return ZeroWeightSource(make_model(device).to(torch.bfloat16)).update_info()
