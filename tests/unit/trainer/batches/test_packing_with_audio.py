"""Packed groups with clips give the log-probs and gradients of transformers' own forward over single responses."""

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.mel import MelExtractor
from ssr1_rl.data.prompt import PromptBuilder, expand_audio_placeholders
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, AudioRef, Question
from ssr1_rl.weights.parameters import named_weights
from tests.unit.gradients import check_gradients, gradients

# Samples of a group's clips, and its responses' lengths: no clip, several, and windows of all sizes (Qwen2.5-Omni cuts
# clips into 32,000 samples); empty responses and responses of one token.
GROUPS = [((16_000, 40_001), (3, 1, 0, 7)), ((), (2, 2)), ((32_001,), (5, 1)), ((400,), (0, 2)), ((64_000,), (1,))]


@pytest.fixture(scope="module", params=["random_audio_model", "random_omni_model"])
def path(request):
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def rows(path):
    builder = PromptBuilder(path, DataConfig(instruction=""))
    ordinary = [t for t in range(len(builder.tokenizer)) if t not in builder.tokenizer.all_special_ids]
    rng = np.random.default_rng(0)
    rows = []
    for index, (num_samples, lengths) in enumerate(GROUPS):
        clips = tuple((0.3 * rng.standard_normal(n)).astype(np.float32) for n in num_samples)
        question = Question(str(index), f"How many beeps {index}?", "one", ("one",), (AudioRef("a.wav"),) * len(clips))
        prepared = builder.prepare(question, clips, num_samples)
        counts = prepared.num_audio_tokens
        shared = tuple(expand_audio_placeholders(prepared.token_ids, builder.audio_placeholder_id, counts))
        for n in lengths:
            response = tuple(int(token) for token in rng.choice(ordinary, n))
            rows.append(Row(shared, clips, response, (0.0,) * n, 1.0, True, num_audio_tokens=counts))
    return rows


def packed(path, model, rows, pack=True):
    extract = MelExtractor(path)

    def mel_of(clip):
        return id(clip), torch.from_numpy(extract(clip)), extract.family.num_mel_frames(len(clip))

    return collate(rows, model.config.audio_token_id, mel_of, model.config.audio_config.num_mel_bins, pack)


def logprobs_alone(path, model, row):
    """Log-probs by transformers only: its feature extractor with all padding, tower, positions and merge."""
    audio = {}
    if row.clips:
        extractor = AutoFeatureExtractor.from_pretrained(path)
        features = extractor(
            list(row.clips), sampling_rate=16_000, return_attention_mask=True, padding="max_length", return_tensors="pt"
        )
        audio = {
            "input_features": features["input_features"],
            "feature_attention_mask": features["attention_mask"],
        }
    ids = torch.tensor([row.prompt + row.response])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **audio).logits[0]
    chosen = logits[len(row.prompt) - 1 : -1]
    return torch.log_softmax(chosen, -1).gather(-1, torch.tensor(row.response, dtype=torch.long)[:, None])[:, 0]


@pytest.fixture(scope="module")
def expected(path, rows):
    """Log-probs by transformers, random weights for them, and the gradient of their weighted sum."""
    model = load_model(path, torch.float32, "sdpa").requires_grad_(True)
    logprobs = torch.cat([logprobs_alone(path, model, row) for row in rows])
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(0))
    return logprobs.detach(), weights, gradients(model, (weights * logprobs).sum())


@pytest.mark.parametrize("train_tower", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_unpacked(path, rows, expected, train_tower, checkpointing):
    logprobs, weights, expected_gradients = expected
    model = load_model(path, torch.float32, "sdpa")
    if checkpointing:
        checkpoint_layers(model)
    policy = Policy(model, SOFTMAX, train_tower)
    batch = packed(path, model, rows)
    assert batch.num_computed_tokens < batch.num_row_tokens / 2
    assert len(batch.input_lengths) == 5, "each clip once"
    found, _ = policy(batch)
    assert (found - logprobs).abs().max() <= 1e-5
    assert logprobs.std() > 0.01, "random weights tell tokens apart"
    found_gradients = gradients(model, (weights * found).sum())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert found_gradients.keys() == trained
    check_gradients(found_gradients, {name: expected_gradients[name] for name in trained})
    in_tower = {name for name in trained if "audio_tower.layers" in name}
    assert bool(in_tower) == train_tower
    frozen = {name for name in expected_gradients if name not in trained}
    assert all("audio_tower" in name for name in frozen), "only the tower may be frozen"


def test_padded_equals_unpacked(path, rows, expected):
    logprobs, weights, expected_gradients = expected
    model = load_model(path, torch.float32, "sdpa")
    batch = packed(path, model, rows, pack=False)
    assert len(batch.input_ids) == len(rows)
    assert len(batch.input_lengths) == 5, "each clip once"
    found, _ = Policy(model, SOFTMAX, True, prefix_packing=False)(batch)
    assert (found - logprobs).abs().max() <= 1e-5
    found_gradients = gradients(model, (weights * found).sum())
    check_gradients(found_gradients, {name: expected_gradients[name] for name in found_gradients})


def test_the_projector_is_trained_even_behind_a_frozen_tower(path):
    model = load_model(path, torch.float32, "sdpa")
    Policy(model, SOFTMAX, False)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("multi_modal_projector" in name or "audio_tower.proj" in name for name in trained)


def test_weights_have_their_published_names(path):
    from safetensors import safe_open

    model = load_model(path, torch.float32, "sdpa")
    with safe_open(f"{path}/model.safetensors", "pt") as file:
        published = {name for name in file.keys() if not name.startswith("talker.")}  # noqa: SIM118
    assert set(named_weights(model)) == published


def test_three_part_positions_of_clips_and_text_are_those_of_text(random_omni_model):
    """Only images and videos make the three parts of Qwen2.5-Omni's positions differ, so one part is enough here."""
    path = str(random_omni_model)
    model = load_model(path, torch.float32, "sdpa")
    frames = [100, 251]
    question = Question("q", "How many?", "one", ("one",), (AudioRef("a.wav"),) * 2)
    clips = [np.zeros(160 * n, np.float32) for n in frames]
    prepared = PromptBuilder(path, DataConfig()).prepare(question, clips, list(map(len, clips)))
    ids = expand_audio_placeholders(prepared.token_ids, model.config.audio_token_id, prepared.num_audio_tokens)
    no_image = torch.zeros(0, 3, dtype=torch.long)
    positions, _ = model.get_rope_index(
        torch.tensor([ids]), image_grid_thw=no_image, audio_seqlens=torch.tensor(frames)
    )
    assert torch.equal(positions[:, 0], torch.arange(len(ids)).expand(3, -1))


def test_sliding_windows_of_the_thinker_are_refused(random_omni_model):
    from ssr1_rl.trainer.model.families import make_model, read_config

    config = read_config(str(random_omni_model))
    config.text_config.layer_types = ["full_attention", "sliding_attention"]
    with pytest.raises(ValueError, match="qwen2_5_omni_text model with layers of sliding_attention"):
        Policy(make_model(config), SOFTMAX, False)
