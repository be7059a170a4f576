"""Adapters: where they go, what they train, and that merged weights compute what the adapted policy computes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssr1_rl.audio_families import VisionFamily, family_of
from ssr1_rl.checks.memory import estimate_memory
from ssr1_rl.checks.preflight import check_model
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.data.audio import as_clip
from ssr1_rl.data.images import image_clip
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.store.checkpoints import CheckpointStore
from ssr1_rl.store.export import export_checkpoint
from ssr1_rl.trainer.batches.clips import ClipInputs
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.lora import adapters_off, add_adapters, find_targets
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX
from ssr1_rl.weights.adapters import merged, merged_weights
from ssr1_rl.weights.parameters import named_adapters, named_weights, trainable_parameters

RANK, ALPHA = 4, 12.0
ATTENTION = ["q_proj", "v_proj"]


def adapted(folder, targets=ATTENTION, train_audio_tower=False, dtype=torch.float32):
    """A policy whose adapters have an effect: B is random too."""
    model = load_model(str(folder), dtype, "sdpa")
    policy = Policy(model, SOFTMAX, train_audio_tower)
    torch.manual_seed(0)
    add_adapters(model, RANK, ALPHA, find_targets(model, targets))
    for name, parameter in named_adapters(model).items():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return policy


@pytest.fixture(scope="module", params=["audio", "omni", "vision", "text"])
def folder(request):
    return request.getfixturevalue(f"random_{request.param}_model")


def batch_for(folder, model):
    """One group of three responses; the prompt of a model that hears or sees has a clip or an image."""
    responses = [(11, 12, 13), (14,), (15, 16, 17, 18)]
    family, rng = family_of(model.config), np.random.default_rng(0)
    if family is None:
        return collate([Row((1, 2, 3), (), r, (0.0,) * len(r), 1.0, True) for r in responses], -1, lambda clip: clip, 0)
    if isinstance(family, VisionFamily):
        clip = image_clip(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    else:
        clip = as_clip((0.3 * rng.standard_normal(9_000)).astype(np.float32))
    inputs, placeholder = ClipInputs(str(folder), lambda clip: clip.waveform), family.placeholder_id(model.config)
    lengths = (family.num_tokens(inputs.input_length(clip)),)
    prompt = tuple(expand_audio_placeholders((1, placeholder, 2), placeholder, lengths))
    rows = [Row(prompt, (clip,), r, (0.0,) * len(r), 1.0, True, num_audio_tokens=lengths) for r in responses]
    return collate(rows, placeholder, inputs, family.tower(model).num_channels)


def logprobs(policy, folder):
    with torch.no_grad():
        return policy(batch_for(folder, policy.model))[0]


def test_only_adapters_get_a_gradient(folder):
    policy = adapted(folder)
    policy(batch_for(folder, policy.model))[0].sum().backward()
    with_gradient = {n for n, p in policy.model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert with_gradient == {n for n, _ in policy.model.named_parameters() if ".lora_" in n}
    assert set(trainable_parameters(policy.model)) == set(named_adapters(policy.model))
    assert len(with_gradient) == 2 * 2 * 2, "A and B of two layers' q_proj and v_proj; none in the audio tower"


def test_a_trained_tower_gets_adapters_too(random_audio_model):
    names = set(named_adapters(adapted(random_audio_model, train_audio_tower=True).model))
    assert "model.audio_tower.layers.0.self_attn.q_proj.lora_A.weight" in names
    only_frozen = set(named_adapters(adapted(random_audio_model).model))
    assert not any(".audio_tower." in name for name in only_frozen)
    assert only_frozen < names


def test_a_fresh_adapter_changes_nothing_and_weights_keep_their_names(folder):
    model = load_model(str(folder), torch.float32, "sdpa")
    policy = Policy(model, SOFTMAX, False)
    before, weights = logprobs(policy, folder), named_weights(model)
    add_adapters(model, RANK, ALPHA, find_targets(model, ATTENTION))
    assert torch.equal(logprobs(policy, folder), before)
    after = named_weights(model)
    assert list(after) == list(weights)
    assert all(after[name] is weights[name] for name in weights)


def test_the_reference_is_the_policy_with_its_adapters_off(folder):
    policy = adapted(folder)
    base = logprobs(Policy(load_model(str(folder), torch.float32, "sdpa"), SOFTMAX, False), folder)
    trained = logprobs(policy, folder)
    assert (trained - base).abs().max() > 1e-3
    with adapters_off(policy.model):
        assert torch.equal(logprobs(policy, folder), base)
    assert torch.equal(logprobs(policy, folder), trained)
    assert all(p.requires_grad for p in named_adapters(policy.model).values())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_porj"], r"names 'q_porj', but no linear layer has this name; did you mean q_proj\? There are: .*v_proj"),
        (["q_proj", "zzz"], r"names 'zzz', but no linear layer has this name; there are: down_proj, gate_proj"),
        (["proj"], "names 'proj', but no linear layer"),  # names are whole: no part of one counts
        (["embed_tokens"], "names 'embed_tokens', but no linear layer"),
        (["lm_head"], "names 'lm_head', which cannot have an adapter: it is the log-prob head"),
        (["fc1"], r"names 'fc1', which cannot have an adapter: .*model\.train_audio_tower=false freezes"),
    ],
)
def test_unknown_targets_are_refused_before_anything_is_loaded(random_audio_model, targets, message):
    config = Config(model=ModelConfig(path=str(random_audio_model)))
    config.model.lora.rank, config.model.lora.target_modules = 4, targets
    with pytest.raises(ValueError, match=rf"model\.lora\.target_modules {message}"):
        check_model(config.model, prefix_packing=True)


def test_targets_are_full_or_partial_paths(random_audio_model):
    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    one = "model.language_model.layers.1.mlp.up_proj"
    assert find_targets(model, [one]) == find_targets(model, ["language_model.layers.1.mlp.up_proj"]) == [one]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merging_by_definition(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Module()
    layer.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(6, 2, bias=False, dtype=dtype)})
    layer.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(2, 5, bias=False, dtype=dtype)})
    layer.scaling = {"default": 3.0}
    weight = torch.nn.Parameter(torch.randn(5, 6, dtype=dtype))
    before = weight.detach().clone()
    a, b = (m["default"].weight.detach().double() for m in (layer.lora_A, layer.lora_B))
    exact = before.double() + 3.0 * b @ a
    found = merged(weight, layer)
    assert found.dtype == dtype
    assert not found.requires_grad
    if dtype == torch.bfloat16:
        assert torch.equal(found, exact.to(dtype)), "rounded once"
    assert torch.allclose(found.double(), exact, atol=1e-6 if dtype == torch.float32 else 1e-1)
    assert torch.equal(weight, before)


async def saved(policy, folder):
    """A checkpoint as learners write it."""

    async def write(where):
        save_file(
            {n: p.detach().clone() for n, p in named_adapters(policy.model).items()},
            where / "weights-00000.safetensors",
        )
        (where / "learner.json").write_text(json.dumps({"lora": {"rank": RANK, "alpha": ALPHA}}))

    return await CheckpointStore(folder, CheckpointConfig()).save(1, {}, None, write)


async def test_a_merged_export_has_the_log_probs_of_the_policy(folder, tmp_path):
    policy = adapted(folder)
    export_checkpoint(await saved(policy, tmp_path), str(folder), tmp_path / "out", "float32")
    exported = Policy(load_model(str(tmp_path / "out"), torch.float32, "sdpa"), SOFTMAX, False)
    assert (logprobs(exported, folder) - logprobs(policy, folder)).abs().max() < 1e-5
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == named_weights(policy.model).keys()
    sent = dict(merged_weights(policy.model))
    assert all(torch.equal(written[name], sent[name]) for name in sent)


async def test_a_merged_export_in_bfloat16_is_what_the_engines_were_sent(random_text_model, tmp_path):
    policy = adapted(random_text_model, dtype=torch.bfloat16)
    export_checkpoint(await saved(policy, tmp_path), str(random_text_model), tmp_path / "out", "bfloat16")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in merged_weights(policy.model))


async def test_peft_puts_an_exported_adapter_on_the_base_model(folder, tmp_path):
    from peft import PeftModel

    policy = adapted(folder)
    export_checkpoint(await saved(policy, tmp_path), str(folder), tmp_path / "out", "float32", adapter=True)
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    base = load_model(str(folder), torch.float32, "sdpa")
    loaded = Policy(PeftModel.from_pretrained(base, str(tmp_path / "out")).base_model.model, SOFTMAX, False)
    assert torch.equal(logprobs(loaded, folder), logprobs(policy, folder))


async def test_without_an_adapter_there_is_none_to_export(random_text_model, tmp_path):
    async def write(where):
        (where / "learner.json").write_text('{"lora": null}')

    checkpoint = await CheckpointStore(tmp_path, CheckpointConfig()).save(1, {}, None, write)
    with pytest.raises(ValueError, match=r"holds no adapter \(model\.lora\.rank=0\); export it without --adapter"):
        export_checkpoint(checkpoint, str(random_text_model), tmp_path / "out", "float32", adapter=True)


def test_the_dry_run_counts_adapters_alone_and_no_reference(random_audio_model):
    config = Config()
    config.model.path, config.grpo.kl_coefficient = str(random_audio_model), 0.1
    whole = estimate_memory(config)
    config.model.lora.rank, config.model.lora.target_modules = RANK, ["up_proj"]
    estimate = estimate_memory(config)
    assert estimate.num_trained == 2 * RANK * (64 + 128)  # 2 layers from 64 to 128
    assert estimate.num_parameters == whole.num_parameters
    assert (whole.learner_reference > 0, estimate.learner_reference) == (True, 0)
