"""Without prefix packing: padded rows give what transformers' own forward gives, with sliding windows too."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from ssr1_rl.trainer.batches.balance import cut_padded
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX, Distribution
from tests.unit.gradients import check_gradients, gradients
from tests.unit.trainer.batches.test_prefix_packing import (
    FAMILIES,
    GROUPS,
    SIZES,
    logprobs_alone,
    model_of,
    packed,
    random_rows,
)

SLIDING = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}


def padded(rows):
    return collate(rows, -1, lambda handle: handle, 0, pack=False)


@pytest.mark.parametrize(
    ("family", "settings_of_it"),
    [
        *((family, {}) for family in FAMILIES),
        ("qwen2", SLIDING),
        ("mistral", {"sliding_window": 4}),
        ("phi3", {"sliding_window": 4}),
    ],
)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(GROUPS, st.integers(0, 2**31))
def test_padded_equals_transformers(family, settings_of_it, groups, seed):
    torch.manual_seed(seed)
    model = model_of(family, **settings_of_it)
    rows = random_rows(groups)
    expected = torch.cat([logprobs_alone(model, row) for row in rows])
    weights = torch.randn(len(expected))
    expected_gradients = gradients(model, (weights * expected).sum())
    batch = padded(rows)
    assert batch.num_computed_tokens == len(rows) * max(row.num_tokens for row in rows)
    found, _ = Policy(model, SOFTMAX, False, prefix_packing=False)(batch)
    assert (found - expected).abs().max() <= 1e-5
    check_gradients(gradients(model, (weights * found).sum()), expected_gradients)


def test_a_window_makes_a_difference():
    torch.manual_seed(0)
    rows = random_rows([(9, (5, 2))])
    model = Qwen2ForCausalLM(Qwen2Config(**SIZES, **SLIDING)).eval()
    whole = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
    whole.load_state_dict(model.state_dict())
    windowed, unlimited = (Policy(m, SOFTMAX, False, prefix_packing=False)(padded(rows))[0] for m in (model, whole))
    assert (windowed - unlimited).abs().max() > 1e-4


def test_padded_equals_packed():
    torch.manual_seed(0)
    rows = random_rows([(5, (3, 1)), (9, (1, 7, 2))])
    found = []
    for batch, prefix_packing in ((packed(rows), True), (padded(rows), False)):
        torch.manual_seed(1)
        model = Qwen2ForCausalLM(Qwen2Config(**SIZES)).eval()
        logprobs, entropies = Policy(model, Distribution(0.7), False, prefix_packing=prefix_packing)(batch)
        found.append((logprobs, gradients(model, (logprobs * batch.advantages_T + entropies).sum())))
    assert (found[0][0] - found[1][0]).abs().max() <= 1e-5
    check_gradients(found[1][1], found[0][1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=20), st.integers(1, 300))
def test_every_row_once_within_the_budget_with_its_padding(lengths, budget):
    rows = [Row((1,) * p, (), (2,) * r, (0.0,) * r, 1.0, True) for p, r in lengths]
    batches = list(cut_padded(rows, lambda row: row.num_tokens, budget))
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    assert all(len(b) * max(row.num_tokens for row in b) <= budget or len(b) == 1 for b in batches)
    assert list(cut_padded([], len, budget)) == []
