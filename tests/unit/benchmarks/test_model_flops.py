"""The GPU benchmark counts the operations that torch counts, and its sides compute what they should."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from gpu_learner import TINY, Sizes, build_model, make_batches
from model_flops import flops_of_pass, peak_tflops

OF_ATTENTION = ("bmm", "attention")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("train_tower", [True, False])
def test_operations_are_those_that_torch_counts(train_tower, packed):
    model = build_model(TINY, "cpu", torch.float32)
    batch = make_batches(TINY)["packed" if packed else "repeated"]
    policy = Policy(model, SOFTMAX, train_tower)
    with FlopCounterMode(display=False) as counter:
        policy(batch)[0].sum().backward()
    found = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    matrices = sum(count for op, count in found.items() if not any(part in op for part in OF_ATTENTION))
    config = model.config
    positions = TINY.clip_frames // 2
    of_tower = (12 if train_tower else 4) * positions**2 * config.audio_config.d_model * TINY.tower_layers
    pairs = sum(group.num_attended_pairs for group in batch.layout.groups)
    of_text = 12 * TINY.hidden_size * TINY.layers * pairs
    expected = flops_of_pass(model, batch, train_tower)
    assert matrices == pytest.approx(expected - of_text - of_tower * len(batch.input_lengths), rel=2e-3)


def test_both_ways_have_the_same_responses_and_packed_has_less_of_the_rest():
    packed, repeated = make_batches(TINY).values()
    assert torch.equal(packed.targets_T, repeated.targets_T)
    rows = TINY.groups * TINY.group_size
    assert (len(packed.input_lengths), len(repeated.input_lengths)) == (TINY.groups, rows)
    assert repeated.num_computed_tokens == repeated.num_row_tokens == packed.num_row_tokens
    prompt = repeated.num_row_tokens // rows - TINY.response_tokens
    saved = TINY.groups * (TINY.group_size - 1) * prompt
    assert packed.num_computed_tokens == repeated.num_computed_tokens - saved


def test_default_size_is_qwen2_audio_7b_s():
    model = build_model(Sizes(), "meta", torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(8.4, abs=0.05)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_peak_of_known_gpus_only():
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA H100 PCIe") == 756
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312
    assert peak_tflops("Some GPU") is None
