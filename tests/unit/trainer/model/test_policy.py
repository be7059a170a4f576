"""The learner's log-probs are those of transformers' own forward pass, however clips are cut and padded."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.data.prompt import PromptBuilder, expand_audio_placeholders
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, AudioRef, Distribution, Question
from ssr1_rl.weights.parameters import checkpoint_name, named_weights, trainable_parameters

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def audio(random_audio_model):
    return str(random_audio_model)


@pytest.fixture(scope="module")
def model(audio):
    return load_model(audio, torch.float32, "sdpa")


@pytest.fixture(scope="module")
def examples(audio):
    """(prompt with one placeholder per clip, waveforms, response); clips from one token to the whole 30 s."""
    builder = PromptBuilder(audio, DataConfig())
    rng = np.random.default_rng(0)
    examples = []
    for lengths, num_tokens in [((16_000,), 5), ((400,), 1), ((31_999,), 9), ((23_333, 8_001), 4), ((480_000,), 3)]:
        clips = [(0.3 * rng.standard_normal(n)).astype(np.float32) for n in lengths]
        question = Question("q", "How many beeps?", "one", ("one", "two"), tuple(AudioRef("a.wav") for _ in clips))
        response = tuple(int(t) for t in rng.integers(0, len(builder.tokenizer), num_tokens))
        examples.append((builder.prepare(question, clips, lengths).token_ids, clips, response))
    # A response may sample the placeholder itself.
    examples[0] = (*examples[0][:2], (*examples[0][2][:2], builder.audio_placeholder_id, examples[0][2][3]))
    return examples


def our_batch(path, model, examples):
    extract = MelExtractor(path)

    def mel_of(clip):
        return id(clip), torch.from_numpy(extract(clip)), QWEN2_AUDIO.num_mel_frames(len(clip))

    placeholder = model.config.audio_token_id
    rows = []
    for prompt, clips, response in examples:
        lengths = tuple(QWEN2_AUDIO.clip_tokens(len(clip)) for clip in clips)
        expanded = tuple(expand_audio_placeholders(prompt, placeholder, lengths))
        logprobs = (0.0,) * len(response)
        rows.append(Row(expanded, tuple(clips), response, logprobs, 1.0, True, num_audio_tokens=lengths))
    return collate(rows, placeholder, mel_of, model.config.audio_config.num_mel_bins)


@torch.no_grad()
def reference_logits(path, model, example):
    """transformers alone: its feature extractor's 3000 frames and mask, its own merge of features; [T, V]."""
    prompt, clips, response = example
    extractor = AutoFeatureExtractor.from_pretrained(path)
    features = extractor(
        clips, sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt"
    )
    placeholder = model.config.audio_token_id
    lengths = [QWEN2_AUDIO.num_tokens(int(mask.sum())) for mask in features["attention_mask"]]
    expanded = expand_audio_placeholders(prompt, placeholder, lengths)
    # transformers puts features wherever the placeholder occurs, so what it sees of the response must not hold one.
    harmless = [0 if token == placeholder else token for token in response]
    ids = torch.tensor([expanded + harmless])
    logits = model(
        input_ids=ids,
        input_features=features["input_features"],
        feature_attention_mask=features["attention_mask"],
        attention_mask=torch.ones_like(ids),
        use_cache=False,
    ).logits[0]
    return logits[len(expanded) - 1 : -1]


def reference_logprobs(path, model, example, temperature):
    logits = reference_logits(path, model, example).double() / temperature
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(example[2])[:, None])[:, 0]


def test_other_counts_than_the_towers_are_noticed(audio, model, examples):
    batch = our_batch(audio, model, examples)
    with pytest.raises(AssertionError, match=r"makes \(25, .* features of these clips, the prompts have \(1, "):
        Policy(model, SOFTMAX, True)(replace(batch, num_audio_tokens=(1, *batch.num_audio_tokens[1:])))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_one_micro_batch_of_many_clips_equals_transformers(audio, model, examples, temperature):
    assert model.config.audio_token_id not in [t for _, _, response in examples[1:] for t in response]
    # transformers cannot compute what follows a placeholder in the response: it would put a feature there.
    chosen = [(p, c, r[:3]) if i == 0 else (p, c, r) for i, (p, c, r) in enumerate(examples)]
    batch = our_batch(audio, model, chosen)
    assert batch.inputs.shape[0] == 6
    assert batch.num_row_tokens == batch.num_computed_tokens, "no two prompts are the same"
    logprobs, entropy = Policy(model, Distribution(temperature), True)(batch)
    expected = torch.cat([reference_logprobs(audio, model, example, temperature) for example in chosen])
    assert (logprobs - expected).abs().max() <= TOLERANCE
    assert expected.std() > 0.01, "random weights tell tokens apart"
    assert entropy.shape == logprobs.shape


def test_rows_do_not_see_each_other_nor_the_padding(audio, model, examples):
    policy = Policy(model, SOFTMAX, True)
    together, _ = policy(our_batch(audio, model, examples))
    alone = torch.cat([policy(our_batch(audio, model, [example]))[0] for example in examples])
    assert (together - alone).abs().max() <= TOLERANCE


def test_the_audio_is_heard(audio, model, examples):
    policy = Policy(model, SOFTMAX, True)
    prompt, (clip,), response = examples[2]
    loud, quiet = (
        policy(our_batch(audio, model, [(prompt, [c], response)]))[0] for c in (clip, 1e-4 * clip[::-1].copy())
    )
    assert (loud - quiet).abs().max() > 100 * TOLERANCE


def test_a_text_model_equals_transformers(random_text_model):
    model = load_model(str(random_text_model), torch.float32, "sdpa")
    rows = [Row((1, 2, 3), (), (4, 5), (0.0,) * 2, 1.0, True), Row((7,), (), (8, 9, 10, 11), (0.0,) * 4, 1.0, True)]
    logprobs, _ = Policy(model, Distribution(1.3), False)(collate(rows, -1, lambda handle: handle, 0))
    expected = []
    for row in rows:
        logits = model(input_ids=torch.tensor([row.prompt + row.response])).logits[0, len(row.prompt) - 1 : -1] / 1.3
        expected += torch.log_softmax(logits, -1)[range(len(row.response)), list(row.response)].tolist()
    assert logprobs.tolist() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("train_audio_tower", [False, True])
def test_what_is_trained(audio, examples, train_audio_tower):
    model = load_model(audio, torch.float32, "sdpa")
    policy = Policy(model, SOFTMAX, train_audio_tower)
    policy(our_batch(audio, model, [examples[0], examples[2]]))[0].sum().backward()
    trained = set(trainable_parameters(model))
    frozen = set(named_weights(model)) - trained
    assert {name for name, p in named_weights(model).items() if p.grad is not None and bool(p.grad.any())} == trained
    assert "audio_tower.embed_positions.weight" in frozen
    assert all(name.startswith("audio_tower.") for name in frozen)
    assert any(name.startswith("audio_tower.layers.") for name in trained) == train_audio_tower
    assert any(name.startswith("multi_modal_projector.") for name in trained)


def test_weights_have_their_published_names(model, random_audio_model):
    from safetensors import safe_open

    with safe_open(random_audio_model / "model.safetensors", "pt") as file:
        assert set(named_weights(model)) == set(file.keys())
    assert checkpoint_name("lm_head.weight", "qwen2") == "lm_head.weight"
    with pytest.raises(AssertionError, match="no parameter vision"):
        checkpoint_name("vision.weight", "qwen2_audio")


def test_a_tower_of_clips_does_not_wait_for_the_device(model):
    """On torch's meta device nothing can be read back."""
    from copy import deepcopy

    from ssr1_rl.audio_families.qwen2_audio import Qwen2AudioTower

    tower = Qwen2AudioTower(deepcopy(model).to("meta"))
    assert tower.encode(torch.zeros(2, 128, 42, device="meta"), (40, 9)).shape == (2, 10, 64)


def test_gradient_checkpointing_takes_place(random_text_model, monkeypatch):
    from ssr1_rl.config.sections.grpo import GrpoConfig
    from ssr1_rl.config.sections.learner import LearnerConfig
    from ssr1_rl.config.sections.model import ModelConfig
    from ssr1_rl.trainer import trained_policy
    from ssr1_rl.trainer.learner import Learner

    monkeypatch.setattr(trained_policy, "join_peers", lambda spec, config: None)
    monkeypatch.setattr(trained_policy, "start_deepspeed", lambda policy, model, config: None)
    settings = ModelConfig(path=str(random_text_model), dtype="float32", gradient_checkpointing=True)
    spec = trained_policy.RankSpec(0, 1, "", 0, "cpu")
    made = Learner(spec, settings, GrpoConfig(), LearnerConfig(), SOFTMAX, 0, lambda handle: handle)
    calls = []
    for layer in made.model.model.layers:
        run = layer._gradient_checkpointing_func
        monkeypatch.setattr(layer, "_gradient_checkpointing_func", lambda *a, run=run: calls.append(1) or run(*a))
    made.policy(collate([Row((1, 2), (), (3,), (0.0,), 1.0, True)], -1, lambda handle: handle, 0))
    assert len(calls) == len(made.model.model.layers)


def test_an_unknown_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        load_model(str(tmp_path), torch.float32, "sdpa")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ValueError, match=r"t5 model; the learner trains qwen2_audio.* and text-only causal"):
        load_model(str(tmp_path), torch.float32, "sdpa")
