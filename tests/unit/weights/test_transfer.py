"""The transfer of weights: buckets, ranks, checksums, and what an engine may keep. No engine runs here."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.distributed.weight_transfer.base import ParamMeta

from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.rollout.engine import EngineSpec, RolloutEngine, Sampling, engine_args
from ssr1_rl.types import Distribution
from ssr1_rl.weights import gloo as gloo_transfer
from ssr1_rl.weights.audit import WeightAudit, digest
from ssr1_rl.weights.gloo import GlooTrainerWeightTransferEngine, GlooWeightTransferEngine, cut_buckets
from ssr1_rl.weights.transport import transfer_backend

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
        ([("b", torch.rand(2))], ValueError),
        ([("a", torch.rand(3))], ValueError),
        ([("a", torch.rand(2).double())], ValueError),
        ([("a", torch.rand(2)), ("b", torch.rand(2))], AssertionError),
    ],
)
def test_a_source_that_breaks_its_word_is_noticed(monkeypatch, sent, error):
    monkeypatch.setattr(gloo_transfer, "_broadcast", lambda group, tensor: None)
    sender = object.__new__(GlooTrainerWeightTransferEngine)
    sender._group = None
    with pytest.raises(error, match="weight source yields"):
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
        return SimpleNamespace(decode=lambda ids, **options: " ".join(map(str, ids)))

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
