"""Packed groups with images give, in float64, the log-probs and gradients of transformers' own forward pass."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoTokenizer

from ssr1_rl.data.images import ImagePrompts
from ssr1_rl.data.prompt import expand_audio_placeholders
from ssr1_rl.demo.tiny_vision import build_tiny_idefics3
from ssr1_rl.trainer.batches.clips import ClipInputs
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.batches.tower_outputs import TowerOutputs
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, Question
from ssr1_rl.weights.parameters import named_weights
from tests.unit.gradients import gradients

TEXTS = ["Which object is red?\n(A) bell", "<think> a bell rings </think> <answer> bell </answer>"]
TOLERANCE = 1e-6

# Height and width of a group's images, and its responses' lengths.
GROUPS = [(((32, 32),), (3, 1, 0, 7)), (((32, 32), (20, 48), (64, 40)), (5, 2)), ((), (2, 2)), (((9, 9),), (1,))]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "vision"
    sizes = {"hidden_size": 64, "num_layers": 2, "tower_size": 64, "image_size": 32, "patch_size": 8, "scale_factor": 2}
    return str(build_tiny_idefics3(folder, TEXTS, **sizes))


@pytest.fixture(scope="module", autouse=True)
def float64():
    """transformers computes the patches' positions in torch's default type, and compares them with the pixels'."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load(path):
    return load_model(path, torch.float64, "sdpa")


@pytest.fixture(scope="module")
def rows(path):
    tokenizer, prompts = AutoTokenizer.from_pretrained(path), ImagePrompts(path)
    ordinary = [token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids]
    rng = np.random.default_rng(0)
    rows = []
    for index, (sizes, lengths) in enumerate(GROUPS):
        images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
        content = [*[{"type": "image"}] * len(images), {"type": "text", "text": f"Which object is red {index}?"}]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prepared = prompts.prepare(Question(str(index), "", ""), token_ids, images)
        counts = prepared.num_audio_tokens
        shared = tuple(expand_audio_placeholders(prepared.token_ids, prompts.placeholder_id, counts))
        for n in lengths:
            response = tuple(int(token) for token in rng.choice(ordinary, n))
            rows.append(Row(shared, prepared.waveforms, response, (0.0,) * n, 1.0, True, num_audio_tokens=counts))
    # A response may sample the placeholder itself: its position gets no feature.
    rows[3] = replace(rows[3], response=(*rows[3].response[:-1], prompts.placeholder_id))
    return rows


def batch_of(path, model, policy, rows, pack=True):
    inputs = ClipInputs(path, lambda clip: clip.waveform)
    return collate(rows, model.config.image_token_id, inputs, policy.tower.num_channels, pack)


def logprobs_alone(path, model, row):
    """Log-probs by transformers only: its image processor, tower, connector, positions and merge."""
    images = {}
    if row.clips:
        processor = AutoImageProcessor.from_pretrained(path)
        images = processor([[Image.fromarray(clip.waveform) for clip in row.clips]], return_tensors="pt")
        images["pixel_values"] = images["pixel_values"].double()
    # The last token is only predicted, and transformers would put a feature in the place of a placeholder.
    ids = torch.tensor([row.prompt + row.response[:-1]])
    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **images).logits[0]
    chosen = logits[len(row.prompt) - 1 :][: len(row.response)]
    return torch.log_softmax(chosen, -1).gather(-1, torch.tensor(row.response, dtype=torch.long)[:, None])[:, 0]


@pytest.fixture(scope="module")
def expected(path, rows):
    """Log-probs by transformers, random weights for them, and the gradient of their weighted sum."""
    model = load(path).requires_grad_(True)
    logprobs = torch.cat([logprobs_alone(path, model, row) for row in rows])
    weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(0))
    return logprobs.detach(), weights, gradients(model, (weights * logprobs).sum())


def check(model, found, expected):
    logprobs, weights, expected_gradients = expected
    assert (found - logprobs).abs().max() <= TOLERANCE
    assert logprobs.std() > 0.01, "random weights tell tokens apart"
    found_gradients = gradients(model, (weights * found).sum())
    assert found_gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, gradient in found_gradients.items():
        assert (gradient - expected_gradients[name]).abs().max() <= TOLERANCE, name
        assert gradient.any(), name


@pytest.mark.parametrize("train_tower", [True, False])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_equals_transformers(path, rows, expected, train_tower, checkpointing):
    model = load(path)
    if checkpointing:
        checkpoint_layers(model)
    policy = Policy(model, SOFTMAX, train_tower)
    batch = batch_of(path, model, policy, rows)
    assert batch.num_computed_tokens < batch.num_row_tokens / 1.5
    assert len(batch.input_lengths) == 5, "each image once"
    check(model, policy(batch)[0], expected)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert all(name.startswith("model.vision_model.") for name in frozen)
    assert bool(frozen) != train_tower


def test_padded_equals_transformers(path, rows, expected):
    model = load(path)
    policy = Policy(model, SOFTMAX, True, prefix_packing=False)
    check(model, policy(batch_of(path, model, policy, rows, pack=False))[0], expected)


def test_outputs_of_a_frozen_tower_equal_transformers(path, rows, expected):
    model = load(path)
    policy = Policy(model, SOFTMAX, False)
    inputs = ClipInputs(path, lambda clip: clip.waveform, max_bytes=0)
    outputs = TowerOutputs(inputs, policy, lambda own: own + 1, policy.tower.num_channels, 2**30, 9)
    outputs.prepare(clip for row in rows for clip in row.clips)
    batch = collate(rows, model.config.image_token_id, outputs, policy.tower.width, encoded=True)
    check(model, policy(batch)[0], expected)


def test_all_that_is_trained_has_a_gradient_without_any_image(path, rows):
    """Ranks reduce gradients together, and another rank may have images."""
    model = load(path)
    policy = Policy(model, SOFTMAX, True)
    logprobs, _ = policy(batch_of(path, model, policy, [row for row in rows if not row.clips]))
    assert gradients(model, logprobs.sum()).keys() == {name for name, _ in model.named_parameters()}


def test_weights_have_their_published_names(path):
    from safetensors import safe_open

    with safe_open(f"{path}/model.safetensors", "pt") as file:
        assert set(named_weights(load(path))) == set(file.keys())


def test_a_tower_of_images_does_not_wait_for_the_device(path):
    """On torch's meta device nothing can be read back."""
    policy = Policy(load(path).to("meta"), SOFTMAX, True)
    tower = policy.tower
    assert tower.encode(torch.zeros(2, tower.num_channels, 4, device="meta"), (4, 4)).shape == (2, 4, tower.width)
