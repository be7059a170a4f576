"""The transfer of weights: buckets, ranks, checksums, and what an engine may keep. No engine runs here."""

import asyncio
import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.distributed.weight_transfer.base import ParamMeta

from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.errors import PeerLost, RunError
from ssr1_rl.rollout.engine import EngineBroken, EngineSpec, RolloutEngine, Sampling, engine_args
from ssr1_rl.types import Distribution
from ssr1_rl.weights import gloo as gloo_transfer
from ssr1_rl.weights.audit import WeightAudit, digest
from ssr1_rl.weights.gloo import (
    GlooTrainerInitInfo,
    GlooTrainerWeightTransferEngine,
    GlooWeightTransferEngine,
    cut_buckets,
)
from ssr1_rl.weights.transport import transfer_backend
from tests.ports import free_ports

SHAPES = st.lists(
    st.tuples(st.sampled_from([torch.float32, torch.bfloat16]), st.lists(st.integers(0, 9), max_size=3)), max_size=20
)


def size(meta):
    return torch.Size(meta.shape).numel() * meta.dtype.itemsize


@settings(max_examples=100, deadline=None)
@given(SHAPES, st.integers(1, 500))
def test_buckets_keep_order_dtype_and_size(shapes, limit):
    metadata = [ParamMeta(str(i), dtype, tuple(shape)) for i, (dtype, shape) in enumerate(shapes)]
    buckets = list(cut_buckets(metadata, limit))
    assert [meta for bucket in buckets for meta in bucket] == metadata
    for bucket in buckets:
        assert bucket
        assert len({meta.dtype for meta in bucket}) == 1
        assert sum(map(size, bucket)) <= limit or len(bucket) == 1
    for before, after in itertools.pairwise(buckets):
        assert before[0].dtype != after[0].dtype or sum(map(size, before)) + size(after[0]) > limit


def test_what_is_sent_is_what_is_loaded(monkeypatch):
    monkeypatch.setattr(gloo_transfer, "cut_buckets", lambda metadata: cut_buckets(metadata, 40))
    weights = {"a": torch.rand(3, 4), "b": torch.rand(()), "c": torch.rand(2, 3).bfloat16(), "d": torch.rand(20)}
    metadata = [ParamMeta(n, t.dtype, tuple(t.shape)) for n, t in weights.items()]
    wire = []
    monkeypatch.setattr(gloo_transfer, "_broadcast", lambda group, tensor: wire.append(tensor))
    sender = object.__new__(GlooTrainerWeightTransferEngine)
    sender._group = None
    sender._send(metadata, iter(weights.items()))
    assert len(wire) == 4

    monkeypatch.setattr(gloo_transfer, "_broadcast", lambda group, tensor: tensor.copy_(wire.pop(0)))
    receiver = object.__new__(GlooWeightTransferEngine)
    loaded = {}
    receiver._group, receiver.device = None, torch.device("cpu")
    receiver.model = SimpleNamespace(load_weights=loaded.update)
    dtypes = [str(m.dtype).removeprefix("torch.") for m in metadata]
    receiver.receive_weights(
        gloo_transfer.NCCLWeightTransferUpdateInfo(
            [m.name for m in metadata], dtypes, [list(m.shape) for m in metadata]
        )
    )
    assert list(loaded) == list(weights)
    assert all(torch.equal(loaded[n], weights[n]) and loaded[n].dtype == weights[n].dtype for n in weights)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        ([("b", torch.rand(2))], "b torch.float32"),
        ([("a", torch.rand(3))], r"a torch.float32 \(3,\) is sent for"),
        ([("a", torch.rand(2).double())], "a torch.float64"),
        ([("a", torch.rand(2)), ("b", torch.rand(2))], "b follows the last one"),
        ([], "they end before a"),
    ],
)
def test_a_source_that_breaks_its_word_is_a_sentence(monkeypatch, sent, error):
    monkeypatch.setattr(gloo_transfer, "_broadcast", lambda group, tensor: None)
    sender = object.__new__(GlooTrainerWeightTransferEngine)
    sender._group = None
    with pytest.raises(RunError, match=f"not those that were announced to the engines: {error}"):
        sender._send([ParamMeta("a", torch.float32, (2,))], iter(sent))


def test_digests_tell_tensors_apart():
    tensor = torch.arange(6.0).reshape(2, 3)
    assert digest(tensor) == digest(tensor.clone()) == digest(tensor.t().contiguous().t())
    others = [tensor + 1e-7 * (tensor == 0), tensor.bfloat16(), tensor.flip(0), torch.zeros(0)]
    assert len({digest(t) for t in [tensor, *others]}) == 5
    assert len(digest(torch.rand(()))) == 16


def test_an_audit_sees_what_was_handed_over_and_what_was_not():
    model = torch.nn.Linear(2, 2)
    model.load_weights = lambda pairs: {name for name, _ in pairs if name == "weight"}
    audit = WeightAudit()
    audit.model_runner = SimpleNamespace(get_model=lambda: model)
    # vLLM's models define load_weights in their class, so the audit can remove its own version.
    type(model).load_weights, found = model.__dict__.pop("load_weights"), {}
    try:
        type(model).load_weights = staticmethod(type(model).load_weights)
        audit.start_weight_audit()
        model.load_weights([("weight", model.weight)])
        found = audit.finish_weight_audit()
        assert "load_weights" not in vars(model)
    finally:
        del type(model).load_weights
    assert found == {"digests": {"weight": digest(model.weight)}, "untouched": ["bias"]}


SPEC = EngineSpec("m", "float32", "cpu", 9000, 2, 3)


def test_engine_arguments():
    args = engine_args(SPEC, RolloutConfig(engine_args={"max_num_batched_tokens": 1}))
    assert args["logprobs_mode"] == "processed_logprobs"
    assert args["generation_config"] == "vllm"
    assert (args["weight_transfer_config"], args["limit_mm_per_prompt"]) == ({"backend": "gloo"}, {"audio": 2})
    assert args["max_num_batched_tokens"] == 1
    assert engine_args(SPEC, RolloutConfig())["max_num_batched_tokens"] == 9000
    on_gpu = replace(SPEC, device="cuda", max_model_len=1536)
    assert engine_args(on_gpu, RolloutConfig())["max_num_batched_tokens"] == 8192
    assert engine_args(on_gpu, RolloutConfig(engine_args={"max_num_batched_tokens": 4}))["max_num_batched_tokens"] == 4
    assert transfer_backend("cuda", "auto") == "nccl"
    assert transfer_backend("cuda", "gloo") == "gloo"


def test_a_float32_head_is_asked_for_in_the_models_settings_beside_the_users():
    spec = replace(SPEC, dtype="bfloat16", float32_head=True)
    assert engine_args(spec, RolloutConfig())["hf_overrides"] == {"head_dtype": "float32"}
    config = RolloutConfig(engine_args={"hf_overrides": {"rope_theta": 1.0}})
    assert engine_args(spec, config)["hf_overrides"] == {"rope_theta": 1.0, "head_dtype": "float32"}
    assert "hf_overrides" not in engine_args(SPEC, RolloutConfig())


class Llm:
    """A double of `AsyncLLM` that records prompts."""

    def __init__(self):
        self.prompts, self.log = [], []

    def get_tokenizer(self):
        tokens = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"))
        return SimpleNamespace(
            decode=lambda ids, **options: " ".join(map(str, ids)),
            convert_tokens_to_ids=list,
            added_tokens_decoder={},
            all_special_ids=[],
            **tokens,
        )

    async def generate(self, prompt, params, request_id):
        self.prompts.append((prompt, params))
        output = SimpleNamespace(
            token_ids=[5, 6],
            logprobs=SimpleNamespace(logprobs=[-0.1, -0.2]),
            finish_reason="stop",
            weight_versions=[SimpleNamespace(version="0", start=0, end=2)],
        )
        yield SimpleNamespace(finished=True, outputs=[output] * params.n)

    def __getattr__(self, name):
        async def call(*args, **options):
            self.log.append(name)

        return call


async def test_no_clip_s_features_outlive_a_sync():
    llm = Llm()
    engine = RolloutEngine(llm)
    sampling = Sampling(3, 9, Distribution(0.7))
    completions, version = await engine.generate("r", [1, 2], [torch.zeros(9).numpy()], sampling)
    assert (len(completions), version, completions[0].text, completions[0].logprobs) == (3, 0, "5 6", (-0.1, -0.2))
    await engine.init_weight_transfer({}, {"names": []})
    await engine.apply_weights(1)
    assert llm.log == [
        "init_weight_transfer_engine",
        "pause_generation",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
        "resume_generation",
    ]
    _, version = await engine.generate("r", [1, 2], [torch.zeros(9).numpy()], sampling)
    assert version == 1
    (before, params), (after, _) = llm.prompts
    assert (params.n, params.temperature, params.max_tokens, params.repetition_penalty, params.top_p) == (
        3,
        0.7,
        9,
        1.0,
        1.0,
    )
    assert before["cache_salt"] != after["cache_salt"], "no prefix of old weights is used again"
    assert before["multi_modal_uuids"] != after["multi_modal_uuids"]


def test_a_broadcast_that_breaks_off_says_that_a_peer_is_the_cause():
    class Group:
        def broadcast(self, tensors, options):
            raise RuntimeError("Connection closed by peer [10.0.0.2]:5")

    with pytest.raises(PeerLost, match=r"Connection closed by peer \[10\.0\.0\.2\]"):
        gloo_transfer._broadcast(Group(), torch.zeros(1))


def test_an_engine_that_never_joins_ends_the_wait_for_the_group():
    info = GlooTrainerInitInfo("127.0.0.1", free_ports(1)[0], 2, timeout_s=0.2, rank=0)
    with pytest.raises(PeerLost, match=r"rank 0 of 2 could not join the weight-transfer group at 127\.0\.0\.1:"):
        gloo_transfer._join(info, 0)


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
@pytest.mark.parametrize(("tensor_parallel_size", "executor"), [(1, "uni"), (2, "mp"), (8, "mp")])
def test_an_engine_takes_its_gpus_without_asking_ray_for_more(backend, tensor_parallel_size, executor):
    """Inside a placement group vLLM's own choice is "ray", which refuses a bundle of more than one GPU."""
    spec = EngineSpec("m", "float32", backend, 9000, 2, 3)
    args = engine_args(spec, RolloutConfig(tensor_parallel_size=tensor_parallel_size))
    assert args["distributed_executor_backend"] == executor


def test_the_executor_that_is_asked_for_is_the_one_that_vllm_takes(monkeypatch):
    """vLLM's own rule, in an actor that has a placement group."""
    from vllm.config.parallel import ParallelConfig

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.util.get_current_placement_group", lambda: object())
    assert ParallelConfig(tensor_parallel_size=2).distributed_executor_backend == "ray", "its own choice"
    args = engine_args(EngineSpec("m", "float32", "cuda", 9, 0, 3), RolloutConfig(tensor_parallel_size=2))
    asked = args["distributed_executor_backend"]
    chosen = ParallelConfig(tensor_parallel_size=2, distributed_executor_backend=asked)
    assert chosen.distributed_executor_backend == "mp"


class SyncingLlm(Llm):
    """Stops in `update_weights` until `go` is set; `error` is what it then raises."""

    def __init__(self, error=None):
        super().__init__()
        self.receiving, self.go, self.error = asyncio.Event(), asyncio.Event(), error

    async def update_weights(self, request):
        self.log.append("update_weights")
        self.receiving.set()
        await self.go.wait()
        if self.error:
            raise self.error


async def syncing(llm):
    engine = RolloutEngine(llm)
    await engine.init_weight_transfer({}, {"names": []})
    sync = asyncio.create_task(engine.apply_weights(1))
    await llm.receiving.wait()
    return engine, sync


SAMPLING = Sampling(1, 4)


async def test_a_request_that_arrives_during_a_sync_runs_and_is_cached_under_the_new_version():
    llm = SyncingLlm()
    engine, sync = await syncing(llm)
    request = asyncio.create_task(engine.generate("r", [1], [torch.zeros(9).numpy()], SAMPLING))
    for _ in range(5):
        await asyncio.sleep(0)
    assert llm.prompts == [], "old weights could compute it, or cache it under either version"
    llm.go.set()
    await sync
    _, version = await request
    assert version == 1
    assert llm.prompts[0][0]["cache_salt"] == "policy-1"
    assert llm.prompts[0][0]["multi_modal_uuids"] == {"audio": ["policy-1-r-0"]}


async def test_a_sync_that_fails_half_way_breaks_the_engine_and_every_later_call_says_so():
    llm = SyncingLlm(KeyError("lm_head"))
    engine, sync = await syncing(llm)
    held = asyncio.create_task(engine.generate("r", [1], [], SAMPLING))
    llm.go.set()
    with pytest.raises(KeyError):
        await sync
    assert "resume_generation" not in llm.log, "half-loaded weights would answer"
    for call in (
        held,
        engine.generate("s", [1], [], SAMPLING),
        engine.apply_weights(2),
        engine.start_weight_audit(),
        engine.finish_weight_audit(),
    ):
        with pytest.raises(EngineBroken, match="loading policy version 1 failed half-way: KeyError: 'lm_head'"):
            await call
    assert llm.prompts == []


async def test_a_sync_that_is_cancelled_half_way_breaks_the_engine_too():
    llm = SyncingLlm()
    engine, sync = await syncing(llm)
    sync.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sync
    with pytest.raises(EngineBroken, match="CancelledError"):
        await engine.generate("r", [1], [], SAMPLING)


async def test_requests_wait_for_the_last_of_two_syncs_in_a_row():
    llm = SyncingLlm()
    engine, sync = await syncing(llm)
    request = asyncio.create_task(engine.generate("r", [1], [], SAMPLING))
    await asyncio.sleep(0)
    llm.go.set()
    await sync
    llm.go.clear()
    llm.receiving.clear()
    again = asyncio.create_task(engine.apply_weights(2))
    await llm.receiving.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    version_at_submission = [prompt["cache_salt"] for prompt, _ in llm.prompts]
    llm.go.set()
    await again
    _, version = await request
    assert version_at_submission == [f"policy-{version}"] * len(version_at_submission)
    assert version in (1, 2)
