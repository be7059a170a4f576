"""What a learner counts: quantiles of the ratio, effective sample size; fillers do not count."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssr1_rl.algorithm.loss import LossTerms
from ssr1_rl.trainer.ratio_histogram import NUM_BINS, count_ratios, ratio_quantile
from ssr1_rl.trainer.totals import Totals, summarise


@given(st.lists(st.floats(-9.0, 9.0), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.99]))
def test_a_quantile_is_read_to_within_5_percent_of_its_log_ratio(log_ratios, share):
    counts = count_ratios(torch.tensor(log_ratios, dtype=torch.float64).exp())
    assert (len(counts), int(counts.sum())) == (NUM_BINS, len(log_ratios))
    exact = float(np.quantile(log_ratios, share, method="inverted_cdf"))
    assert np.log(ratio_quantile(counts, share)) == pytest.approx(exact, rel=0.05, abs=1.1e-6)


def test_quantiles_of_both_scales_and_of_nothing():
    sequence = count_ratios(torch.tensor([1 - 3e-4, 1.0, 1.0, 1.0, 1 + 4e-4], dtype=torch.float64))
    assert ratio_quantile(sequence, 0.01) == pytest.approx(1 - 3e-4, abs=2e-5)
    assert ratio_quantile(sequence, 0.5) == 1.0
    assert ratio_quantile(sequence, 0.99) == pytest.approx(1 + 4e-4, abs=2e-5)
    assert ratio_quantile(torch.zeros(NUM_BINS, dtype=torch.int64), 0.5) == 1.0
    extreme = count_ratios(torch.tensor([0.0, float("inf")]))
    assert (extreme[0], extreme[-1]) == (1, 1)


def micro_batch(weight=1.0, ref_logprobs_T=None):
    logprobs = torch.full((4,), -2.0)
    return SimpleNamespace(
        rollout_logprobs_T=logprobs,
        ref_logprobs_T=logprobs if ref_logprobs_T is None else ref_logprobs_T,
        comparable_T=torch.ones(4, dtype=torch.bool),
        in_loss_T=torch.ones(4, dtype=torch.bool),
        layout=SimpleNamespace(num_responses=2),
        num_computed_tokens=7,
        num_row_tokens=9,
        weight=weight,
    )


def terms(importance):
    count = torch.tensor(1)
    ratios = torch.tensor([0.9, 1.0, 1.0, 1.2])
    return LossTerms(torch.tensor(0.5), count, count, torch.tensor(2.0), ratios, torch.tensor(importance), count, count)


def summary(*counted, **sums):
    totals = Totals()
    for importance, weight in counted:
        totals.add_micro_batch(
            micro_batch(weight), torch.tensor([-2.0, -2.5, -2.0, -1.0]), torch.ones(4), terms(importance)
        )
    totals.add_sums(updates=1.0, grad_norm=3.0, learning_rate=0.1, ranks=1.0, **sums)
    return summarise(totals)


def test_metrics_by_hand():
    found = summary(([2.0, 1.0, 0.0], 1.0), ([1.0], 1.0))
    assert found["effective_sample_size"] == pytest.approx(4.0**2 / (4 * 6.0))
    assert found["entropy"] == 1.0
    assert (found["clipped_low_share"], found["clipped_high_share"]) == (0.25, 0.25)
    assert found["kl_to_reference"] == 0.5
    assert found["kl_to_rollout"] == pytest.approx((0.5 - 1.0) / 4)
    assert found["logprob_abs_diff_max"] == 1.0
    assert found["ratio_max"] == pytest.approx(1.2)
    assert found["ratio_p50"] == 1.0
    assert found["ratio_p01"] == pytest.approx(0.9, rel=0.01)


def test_without_a_reference_there_is_no_kl_to_it():
    totals = Totals()
    no_reference = micro_batch(ref_logprobs_T=torch.zeros(0))
    totals.add_micro_batch(no_reference, torch.full((4,), -2.5), torch.ones(4), terms([1.0]))
    totals.add_sums(updates=1.0, grad_norm=3.0, learning_rate=0.1, ranks=1.0)
    found = summarise(totals)
    assert "kl_to_reference" not in found
    assert found["kl_to_rollout"] == 0.5


def test_without_weights_the_sample_is_whole_and_with_all_masked_none_is_left():
    assert summary(([], 1.0))["effective_sample_size"] == 1.0
    assert summary(([0.0, 0.0], 1.0))["effective_sample_size"] == 0.0


def test_a_filler_counts_as_computed_alone_but_has_every_entry():
    own, with_filler = summary(([1.0], 1.0)), summary(([1.0], 1.0), ([1.0], 0.0))
    assert {name for name in own if own[name] != with_filler[name]} == {"computed_tokens"}
    filler, real = Totals(), Totals()
    for totals, weight in ((filler, 0.0), (real, 1.0)):
        totals.add_micro_batch(micro_batch(weight), torch.full((4,), -2.5), torch.ones(4), terms([1.0]))
    assert (filler.sums.keys(), filler.maxima.keys()) == (real.sums.keys(), real.maxima.keys())
    assert int(filler.ratio_counts.sum()) == filler.sums["tokens"] == 0


def test_tokens_out_of_the_loss_are_in_no_sum():
    """Their log-prob from the engine is 0 here, and the learner's may be anything."""
    batch = micro_batch()
    batch.in_loss_T = torch.tensor([True, False, True, True])
    batch.comparable_T = batch.in_loss_T
    batch.rollout_logprobs_T = torch.tensor([-2.0, 0.0, -2.0, -2.0])
    totals = Totals()
    entropy = torch.tensor([1.0, 50.0, 1.0, 1.0])
    totals.add_micro_batch(batch, torch.tensor([-2.0, -700.0, -2.3, -2.0]), entropy, terms([1.0]))
    totals.add_sums(updates=1.0, grad_norm=3.0, learning_rate=0.1, ranks=1.0)
    found = summarise(totals)
    assert (found["trained_tokens"], found["comparable_tokens"], found["entropy"]) == (3, 3, 1.0)
    assert found["kl_to_rollout"] == pytest.approx(0.1)
    assert found["logprob_abs_diff_max"] == pytest.approx(0.3)
    assert found["kl_to_reference"] == pytest.approx(2.0 / 3)


def test_shares_of_what_is_dropped():
    found = summary(([0.0, 1.0, 0.0, 2.0], 1.0), ([1.0] * 4, 1.0))
    assert found["importance_zero_share"] == 2 / 8
    assert found["rejected_share"] == 2 / 4
    assert found["off_policy_masked_share"] == 2 / 8
    assert summary(([], 1.0))["importance_zero_share"] == 0.0


def test_a_log_prob_of_the_learner_that_is_no_number_reaches_the_guard():
    for bad in (float("nan"), float("inf"), -float("inf")):
        totals = Totals()
        totals.add_micro_batch(micro_batch(), torch.tensor([-2.0, bad, -2.0, -2.0]), torch.ones(4), terms([1.0]))
        assert not np.isfinite(totals.sums["kl_rollout"])


@pytest.mark.parametrize("values", [(float("nan"), 0.5), (0.5, float("nan")), (0.5, float("nan"), 2.0)])
def test_a_maximum_that_is_no_number_stays_none_whatever_comes_later(values):
    total = Totals()
    for value in values:
        other = Totals()
        other.add_maxima(ratio=value)
        total.add(other)
    assert np.isnan(total.maxima["ratio"])


def test_a_maximum_that_is_no_number_on_one_rank_is_not_finite_over_ranks(monkeypatch):
    """The maximum of another rank may replace NaN, but not infinity."""
    other_rank = torch.tensor([0.5], dtype=torch.float64)
    reduce = {
        torch.distributed.ReduceOp.MAX: lambda mine: torch.where(mine > other_rank, mine, other_rank),
        torch.distributed.ReduceOp.SUM: lambda mine: mine,
    }
    monkeypatch.setattr(
        torch.distributed,
        "all_reduce",
        lambda mine, op=torch.distributed.ReduceOp.SUM: mine.copy_(reduce[op](mine)),
    )
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    totals = Totals()
    totals.add_maxima(ratio=float("nan"))
    assert not np.isfinite(totals.over_ranks(torch.device("cpu")).maxima["ratio"])


def test_a_filler_adds_0_also_where_its_figures_are_no_numbers():
    totals = Totals()
    totals.add_micro_batch(micro_batch(0.0), torch.full((4,), float("nan")), torch.ones(4), terms([1.0]))
    assert totals.maxima == {"logprob_abs_diff": 0.0, "ratio": 0.0}
    assert all(np.isfinite(value) for value in totals.sums.values())
