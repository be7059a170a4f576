"""The memory estimate at Qwen2-Audio-7B's shapes, by parts, against figures counted by hand for launch/grpo.yaml.

GiB per rank with ZeRO-3 on 4 ranks: weights 3.9; masters 7.2 and moments 14.5; sums of gradients 7.2; reduce bucket of
5e8 float32 1.9, float32 copy of lm_head's gradient 2.4, gathered lm_head 1.2; layer inputs 4.0, one layer 2 to 3,
logits 3 x 1.0; gradient of lm_head 2.4 in float32 and 1.2 for a chunk's share.
"""

import pytest

from ssr1_rl.checks.memory import MemoryEstimate, estimate_memory
from ssr1_rl.checks.rules import load_config

GIB = 2**30
GPU = 79.1  # GiB of an H100 of 80 GB


@pytest.fixture(scope="module")
def estimate(tmp_path_factory):
    """Estimates for launch/grpo.yaml with overrides; the model is only a config.json."""
    from transformers import Qwen2AudioConfig

    folder = tmp_path_factory.mktemp("qwen2-audio-7b")
    text = {
        "model_type": "qwen2",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 156032,
        "tie_word_embeddings": False,
    }
    tower = {"d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120}
    config = Qwen2AudioConfig(text_config=text, audio_config=tower, audio_token_index=151646, tie_word_embeddings=False)
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(folder)
    found = {}

    def estimated(*overrides: str) -> MemoryEstimate:
        if overrides not in found:
            found[overrides] = estimate_memory(load_config("launch/grpo.yaml", [f"model.path={folder}", *overrides]))
        return found[overrides]

    return estimated


def together(estimate):
    """GiB of a learner rank that offloads nothing."""
    return sum(getattr(estimate, name) for name in vars(estimate) if name.startswith("learner_")) / GIB


@pytest.mark.parametrize(
    ("part", "gib"),
    [
        ("learner_weights", 3.9),
        ("learner_optimizer", 7.2 + 14.5),
        ("learner_gradients", 7.2),
        ("learner_buffers", 1.9 + 2.4 + 1.2),
        ("learner_activations", 4.0 + 2.1 + 3.0),
        ("learner_head", 2.4 + 1.2),
        ("learner_reference", 0.0),
        ("engine_weights", 15.7),
        ("engine_sync", 4.1),
    ],
)
def test_parts_with_zero_3_on_four_ranks(estimate, part, gib):
    assert getattr(estimate("learner.zero_stage=3"), part) / GIB == pytest.approx(gib, abs=0.15)


@pytest.mark.parametrize(
    ("overrides", "gib"),
    [
        (["learner.zero_stage=3"], 50),
        (["learner.zero_stage=3", "learner.num_workers=2"], 83),
        (["learner.zero_stage=2"], 62),
    ],
)
def test_the_whole_of_a_rank(estimate, overrides, gib):
    assert together(estimate(*overrides)) == pytest.approx(gib, abs=1.6)


def test_two_ranks_do_not_fit_a_gpu_and_the_recipe_does(estimate):
    assert together(estimate("learner.zero_stage=3", "learner.num_workers=2")) > GPU
    assert together(estimate()) < 0.85 * GPU


def test_the_engines_of_the_recipe_leave_room_for_a_sync(estimate):
    share = load_config("launch/grpo.yaml").rollout.gpu_memory_utilization
    assert estimate().engine_sync / GIB < (1 - share) * GPU / 2, "CUDA itself and fragmentation need the other half"


def test_a_smaller_bucket_and_adapters_need_less(estimate):
    stage_3 = estimate("learner.zero_stage=3")
    small = estimate("learner.zero_stage=3", "learner.deepspeed.zero_optimization.reduce_bucket_size=100000000")
    assert stage_3.learner_buffers - small.learner_buffers == 4 * 400_000_000
    adapters = estimate("model.lora.rank=16")
    assert adapters.learner_head == 0
    assert adapters.learner_buffers == 500_000_000 * (2 + 4), "no adapter is larger than the bucket"
