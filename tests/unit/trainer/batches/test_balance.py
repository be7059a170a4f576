"""Groups -> ranks -> passes: everything once, within bounds, and with costs as equal as possible."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssr1_rl.trainer.batches.balance import (
    counts_of_loss,
    cut_parts,
    pack_evenly,
    pack_tightly,
    response_lengths,
    rows_to_train,
    share_groups,
    share_minibatches,
    trained_lengths,
)
from ssr1_rl.trainer.batches.rows import Row, packed_tokens
from ssr1_rl.types import GroupId, TrainGroup

PROMPT = (1, 2)
GROUPS = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=8)), min_size=1, max_size=10
)


def row(advantage=1.0, num_tokens=3, prompt=PROMPT):
    return Row(prompt, (), (3,) * num_tokens, (-1.0,) * num_tokens, advantage, True)


def rows_of(groups):
    """Rows of (prompt tokens, response lengths) each, with a separate prompt object for each group."""
    prompts = [tuple(range(length)) for length, _ in groups]
    return [row(1.0, n, prompt) for prompt, (_, lengths) in zip(prompts, groups, strict=True) for n in lengths]


def tokens_of(rows):
    prompts = {id(r.prompt): len(r.prompt) for r in rows}
    return sum(prompts.values()) + sum(len(r.response) for r in rows)


@settings(max_examples=100, deadline=None)
@given(GROUPS, st.integers(1, 300), st.integers(0, 3))
def test_every_row_once_within_the_budget_and_no_prompt_cut_without_need(groups, budget, spare_passes):
    rows = rows_of(groups)
    parts = cut_parts(rows, budget)
    tight = pack_tightly(parts, budget)
    even = pack_evenly(parts, budget, len(tight) + spare_passes, packed_tokens)
    assert len(even) <= len(tight) + spare_passes
    for passes in (tight, even):
        assert sorted(id(row) for rows in passes for row in rows) == sorted(map(id, rows))
        assert all(tokens_of(rows) <= budget or len(rows) == 1 for rows in passes)
        for prompt in {id(r.prompt): r.prompt for r in rows}.values():
            own = [r for r in rows if r.prompt is prompt]
            homes = {i for i, rows in enumerate(passes) for r in rows if r.prompt is prompt}
            assert len(homes) == 1 or tokens_of(own) > budget


def test_a_group_beyond_the_budget_is_split_by_responses():
    rows = [row(1.0, n) for n in (3, 50, 4, 2)]
    assert [[len(r.response) for r in part] for part in cut_parts(rows, 14)] == [[3], [50], [4, 2]]
    sizes = [[len(r.response) for r in rows] for rows in pack_tightly(cut_parts(rows, 14), 14)]
    assert sizes == [[50], [4, 2, 3]], "parts of one group may meet again"


def test_first_fit_needs_no_third_pass():
    parts = [[row(1.0, n - 2, (n, n))] for n in (9, 7, 9, 7)]
    assert [tokens_of(rows) for rows in pack_tightly(parts, 16)] == [16, 16]


def test_more_passes_than_needed_are_used_to_spread_the_cost():
    parts = [[row(1.0, n, (n, n))] for n in (10, 10, 10, 10, 40)]
    assert len(pack_tightly(parts, 1000)) == 1
    passes = pack_evenly(parts, 1000, 2, lambda part: len(part[0].response))
    assert sorted(sum(len(r.response) for r in rows) for rows in passes) == [40, 40]


def test_where_even_passes_do_not_fit_tight_ones_are_taken():
    # By cost the greedy way puts 5 and 4 first, then has no room for both 3s.
    parts = [[row(1.0, n - 2, (n, n))] for n in (5, 4, 3, 3, 3)]
    tight = pack_tightly(parts, 9)
    assert pack_evenly(parts, 9, 2, packed_tokens) == tight
    assert sorted(map(tokens_of, tight)) == [9, 9]


def test_rows_without_gradient_are_left_out_but_one_stays():
    rows = [row(advantage=0.0), row(advantage=-0.5), row(num_tokens=0), row(advantage=0.7)]
    assert [r.advantage for r in rows_to_train(rows, keep_all=False)] == [-0.5, 0.7]
    assert [r.advantage for r in rows_to_train(rows, keep_all=True)] == [0.0, -0.5, 0.7]
    assert len(rows_to_train([row(num_tokens=0), row(advantage=0.0), row(advantage=0.0)], keep_all=False)) == 1
    assert rows_to_train([row(num_tokens=0)], keep_all=True) == []


def test_masked_rows_are_left_out_and_none_of_them_stays():
    masked = replace(row(advantage=1.0), in_loss=False)
    assert rows_to_train([masked, row(advantage=-0.5)], keep_all=True) == [row(advantage=-0.5)]
    assert rows_to_train([masked], keep_all=False) == []
    assert rows_to_train([masked, row(advantage=0.0)], keep_all=False) == [row(advantage=0.0)]


def test_masked_rows_count_as_rows_but_not_their_tokens():
    """As in TRL, in verl and by the authors of Dr. GRPO: one that is not counted raises the weight of all others."""
    masked = replace(row(num_tokens=7), in_loss=False)
    broken = replace(row(num_tokens=3), rollout_logprobs=(-1.0, float("nan"), -1.0))
    assert counts_of_loss([row(num_tokens=4), masked, broken, row(num_tokens=0)]) == (4 + 2, 4)
    assert counts_of_loss([masked]) == (0, 1)
    assert counts_of_loss([]) == (0, 0)


def test_a_row_with_token_advantages_is_trained_on():
    differing = replace(row(advantage=0.0), token_advantages=(1.0, 0.0, -1.0))
    assert rows_to_train([differing], keep_all=False) == [differing]


def group(name, lengths, prompt=10, **settings):
    responses = tuple((1,) * n for n in lengths)
    logprobs = tuple((0.0,) * n for n in lengths)
    advantages_G = settings.pop("advantages_G", (0.0,) * len(lengths))
    return TrainGroup(GroupId(0, name), (2,) * prompt, (), responses, logprobs, advantages_G, 0, **settings)


def test_the_trained_responses_of_a_group():
    some = group("a", (5, 7, 0, 3), advantages_G=(1.0, 0.0, 1.0, -1.0), loss_mask_G=(True, True, True, False))
    assert trained_lengths(some, keep_all=False) == (5,)
    assert trained_lengths(some, keep_all=True) == (5, 7)
    differing = group("a", (2, 2), token_advantages=((0.0, 0.0), (0.0, 0.5)))
    assert trained_lengths(differing, keep_all=False) == (2,)


def test_prompt_tokens_of_a_group():
    assert group("a", (5, 7)).num_prompt_tokens == 10
    assert group("a", (5, 7), num_audio_tokens=(250, 25)).num_prompt_tokens == 8 + 275
    assert response_lengths(group("a", (5, 0, 7))) == (5, 7)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.lists(st.integers(0, 500), min_size=5, max_size=30))
def test_ranks_get_every_group_once_and_equal_costs(num_ranks, costs):
    groups = [group(str(index), (1,)) for index in range(len(costs))]

    def cost(group):
        return costs[int(group.id.question_id)]

    shares = share_groups(groups, num_ranks, cost)
    assert all(shares), "a rank without any group could not keep in step"
    assert sorted(int(g.id.question_id) for share in shares for g in share) == list(range(len(costs)))
    if len(set(costs)) == 1:
        sizes = list(map(len, shares))
        assert max(sizes) - min(sizes) <= 1
    of_ranks = [sum(map(cost, share)) for share in shares]
    assert max(of_ranks) - min(of_ranks) <= max(costs), "balanced to within the costliest group"


def test_groups_that_cost_nothing_go_where_there_are_fewest():
    groups = [group(str(index), (1,)) for index in range(40)]
    shares = share_groups(groups, 4, lambda group: max(0, int(group.id.question_id) - 23))
    assert sum(int(g.id.question_id) > 23 for g in shares[0]) == 4
    assert [len(share) for share in shares] == [10, 10, 10, 10]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_mini_batch_does_not_depend_on_the_number_of_ranks(num_ranks):
    groups = [group(str(n), (n,), prompt=0) for n in (10, 100, 20, 30, 50, 40)]
    parts = zip(*share_minibatches(groups, 3, num_ranks, lambda g: len(g.responses[0])), strict=True)
    cut = [{g.id.question_id for share in part for g in share} for part in parts]
    assert cut == [{"10", "100"}, {"20", "30"}, {"50", "40"}]
