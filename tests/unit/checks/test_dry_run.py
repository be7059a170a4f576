"""The memory estimate, by hand for a tiny model; and a dry run that starts nothing."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ssr1_rl.checks.dry_run import print_dry_run
from ssr1_rl.checks.memory import estimate_memory
from ssr1_rl.config.schema import Config
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.types import SAMPLE_RATE


@pytest.fixture
def make_config(random_audio_model, tmp_path):
    def make(
        dtype="bfloat16", stage=1, ranks=1, kl=0.0, checkpointing=False, path=random_audio_model, tensor_parallel=1
    ):
        config = Config()
        config.run.name, config.run.dir = "x", str(tmp_path / "run")
        config.data.train.path = str(tmp_path / "q.json")
        config.data.train.format = "jsonl"
        rows = [{"id": 1, "question": "How many beeps?", "choices": ["one", "two"], "answer": "B", "audio": "a.wav"}]
        (tmp_path / "q.json").write_text(json.dumps(rows))
        soundfile.write(tmp_path / "a.wav", np.zeros(2 * SAMPLE_RATE), SAMPLE_RATE)
        config.model.path, config.model.dtype, config.model.gradient_checkpointing = str(path), dtype, checkpointing
        config.learner.zero_stage, config.learner.num_workers = stage, ranks
        config.learner.max_tokens_per_micro_batch = 1000
        config.data.max_prompt_tokens, config.rollout.max_response_tokens = 300, 100
        config.grpo.kl_coefficient, config.rollout.tensor_parallel_size = kl, tensor_parallel
        return config

    return make


@pytest.fixture(scope="module")
def counts(random_audio_model):
    """(all parameters, those of the frozen tower, vocabulary), counted in the real model."""
    model = load_model(str(random_audio_model), torch.float32, "sdpa")
    tower = sum(p.numel() for p in model.model.audio_tower.parameters())
    return sum(p.numel() for p in model.parameters()), tower, model.config.text_config.vocab_size


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"), [(0, 1, 1, 1), (1, 1, 1, 4), (2, 1, 4, 4), (3, 4, 4, 4)]
)
@pytest.mark.parametrize(("dtype", "width", "states"), [("bfloat16", 2, 12), ("float32", 4, 8)])
def test_zero_shares(make_config, counts, stage, weights, gradients, optimizer, dtype, width, states):
    total, tower, _ = counts
    estimate = estimate_memory(make_config(dtype, stage, ranks=4, kl=0.1, tensor_parallel=2))
    assert (estimate.num_parameters, estimate.num_trained) == (total, total - tower)
    assert estimate.learner_weights == width * total // weights
    assert estimate.learner_reference == width * total // weights
    assert estimate.learner_gradients == (6 if width == 2 and stage <= 1 else 4) * (total - tower) // gradients
    assert estimate.learner_optimizer == states * (total - tower) // optimizer
    assert estimate.engine_weights == width * total // 2


def test_activations_by_hand(make_config, counts):
    logits = 3 * 4 * 727 * counts[2]  # of 1000 tokens 8 x 100 in 300 + 8 x 100 are of responses
    # 2 layers of hidden size 64
    assert estimate_memory(make_config()).learner_activations == 2 * 34 * 1000 * 64 + logits
    checkpointed = estimate_memory(make_config(checkpointing=True)).learner_activations
    assert checkpointed == 34 * 1000 * 64 + 2 * 2 * 1000 * 64 + logits


def test_a_float32_head_holds_a_copy_of_its_weight_by_hand(make_config, counts):
    for dtype, size in (("bfloat16", 4 * 64 * counts[2]), ("float32", 0)):
        config = make_config(dtype)
        without = estimate_memory(config).learner_activations
        config.model.float32_head = True
        assert estimate_memory(config).learner_activations == without + size


def test_without_kl_there_is_no_reference_and_a_trained_tower_counts(make_config, counts):
    config = make_config()
    assert estimate_memory(config).learner_reference == 0
    config.model.train_audio_tower = True
    embed_positions = 1500 * 64
    assert estimate_memory(config).num_trained == counts[0] - embed_positions


def test_a_text_model(make_config, random_text_model):
    estimate = estimate_memory(make_config(path=random_text_model))
    assert estimate.num_trained == estimate.num_parameters > 0


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_trained_towers_activations_by_hand(make_config, checkpointing):
    config = make_config(checkpointing=checkpointing)
    without = estimate_memory(config).learner_activations
    config.model.train_audio_tower = True
    config.data.max_audio_s = 4.0
    # 273 of 1000 tokens are of prompts, of 300 each, 100 of which are 4 s of audio; 2 layers of size 64
    positions = 2 * (273 * 100 // 300)
    tower = (34 + 2 * 2 if checkpointing else 2 * 34) * positions * 64
    assert estimate_memory(config).learner_activations == without + tower


def test_a_dry_run_makes_the_checks_of_a_real_run(make_config, tmp_path, capsys):
    config = make_config()
    (tmp_path / "q.json").unlink()
    with pytest.raises(ValueError, match=r"data\.train\.path .*q\.json is not a file"):
        print_dry_run(config)
    assert "group_size: 8" in capsys.readouterr().out


def test_a_dry_run_prints_and_starts_nothing(make_config, counts, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    import ray

    # Whether this process has a cluster already depends on the tests before this one.
    monkeypatch.setattr(ray, "init", lambda *_args, **_kwargs: pytest.fail("a dry run connected to Ray"))
    config = make_config()
    config.grpo.preset = "gspo"
    config.grpo.importance_cap = 3.0
    print_dry_run(config)
    text = capsys.readouterr().out
    assert "group_size: 8" in text
    assert "preset gspo (GSPO, arXiv 2507.18071" in text
    assert "ratio=token instead of sequence" in text
    assert "note: grpo.importance_cap=3.0 has no effect" in text
    assert "rollout worker" in text
    assert f"{counts[0]:,} parameters, {counts[0] - counts[1]:,} trained" in text
    assert "nothing was started" in text


def test_what_is_offloaded_is_not_on_the_device(make_config, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    config = make_config(stage=3, kl=0.1)
    monkeypatch.setattr("ssr1_rl.checks.dry_run.GIB", 1)
    estimate = estimate_memory(config)
    config.learner.offload_optimizer = config.learner.offload_parameters = "cpu"
    print_dry_run(config)
    text = capsys.readouterr().out
    assert text.count("learner rank, host") == 4
    assert f"{estimate.learner_buffers + estimate.learner_activations + estimate.learner_head:.2f}" in text


@pytest.mark.parametrize(
    ("device", "said"), [("cpu", "sdpa (no flash: it needs run.device=cuda"), ("cuda", "auto, chosen where the")]
)
def test_a_dry_run_says_how_the_learners_attend(make_config, capsys, monkeypatch, device, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config()
    config.run.device = device
    print_dry_run(config)
    assert f"attention of the learners: {said}" in capsys.readouterr().out


def test_of_qwen2_5_omni_the_thinker_is_counted(make_config, random_omni_model):
    config = make_config(path=random_omni_model)
    frozen = estimate_memory(config)
    model = load_model(str(random_omni_model), torch.float32, "sdpa")
    assert frozen.num_parameters == sum(p.numel() for p in model.parameters())
    config.model.train_audio_tower = True
    trained = {
        name for name, _ in model.named_parameters() if not name.startswith(("visual.", "audio_tower.audio_bos"))
    }
    assert estimate_memory(config).num_trained == sum(p.numel() for n, p in model.named_parameters() if n in trained)
