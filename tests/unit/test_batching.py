"""Rows -> packed micro-batches, and groups -> ranks: everything once, within budget, in the right place."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssr1_rl.data.prompt import num_audio_tokens
from ssr1_rl.trainer.batching import (
    Row,
    collate,
    cut_micro_batches,
    num_train_tokens,
    rows_to_train,
    share_groups,
    share_minibatches,
)
from ssr1_rl.types import GroupId, TrainGroup

AUDIO = 99
FRAMES = {"a": 9, "b": 14, "c": 40}  # mel frames of clips; 2, 3 and 10 audio tokens
PROMPT = (1, 2)
GROUPS = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=8)), min_size=1, max_size=10
)


def row(prompt=(1, 2), clips=(), response=(3, 4, 5), advantage=1.0, comparable=True, seed=0.0):
    expanded = []
    remaining = iter(clips)
    for token in prompt:
        expanded += [token] * num_audio_tokens(FRAMES[next(remaining)]) if token == AUDIO else [token]
    logprobs = tuple(-seed - i / 8 for i in range(len(response)))
    return Row(tuple(expanded), tuple(clips), tuple(response), logprobs, advantage, comparable)


def mel_of(handle):
    return handle, torch.full((4, FRAMES[handle] + 2), float(ord(handle))), FRAMES[handle]


def packed_tokens(rows):
    prompts = {id(r.prompt): len(r.prompt) for r in rows}
    return sum(prompts.values()) + sum(len(r.response) for r in rows)


@settings(max_examples=50, deadline=None)
@given(GROUPS, st.integers(1, 300))
def test_every_row_once_within_the_budget_and_no_prompt_cut_without_need(groups, budget):
    rows = []
    for p, lengths in groups:
        prompt = tuple(range(p))
        rows += [Row(prompt, (), (2,) * r, (0.0,) * r, 1.0, True) for r in lengths]
    batches = list(cut_micro_batches(rows, budget))
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    assert all(packed_tokens(batch) <= budget or len(batch) == 1 for batch in batches)
    for p, lengths in groups:
        homes = {i for i, batch in enumerate(batches) for row in batch if len(row.prompt) == p}
        if p + sum(lengths) <= budget and [g[0] for g in groups].count(p) == 1:
            assert len(homes) == 1


def test_a_group_beyond_the_budget_is_split_by_responses():
    rows = [Row(PROMPT, (), (1,) * n, (0.0,) * n, 1.0, True) for n in (3, 50, 4, 2)]
    sizes = [[len(r.response) for r in batch] for batch in cut_micro_batches(rows, 14)]
    assert sorted(sizes) == [[4, 2, 3], [50]]


def test_rows_without_gradient_are_left_out_but_one_stays():
    rows = [row(advantage=0.0), row(advantage=-0.5), row(response=()), row(advantage=0.7)]
    assert [r.advantage for r in rows_to_train(rows, keep_all=False)] == [-0.5, 0.7]
    assert [r.advantage for r in rows_to_train(rows, keep_all=True)] == [0.0, -0.5, 0.7]
    assert len(rows_to_train([row(response=()), row(advantage=0.0), row(advantage=0.0)], keep_all=False)) == 1
    assert rows_to_train([row(response=())], keep_all=True) == []


def test_masked_rows_are_left_out_and_none_of_them_stays():
    masked = replace(row(advantage=1.0), in_loss=False)
    assert rows_to_train([masked, row(advantage=-0.5)], keep_all=True) == [row(advantage=-0.5)]
    assert rows_to_train([masked], keep_all=False) == []
    assert rows_to_train([masked, row(advantage=0.0)], keep_all=False) == [row(advantage=0.0)]


def test_advantages_of_tokens():
    plain, differing = row(advantage=0.5), replace(row(advantage=0.0), token_advantages=(1.0, 0.0, -1.0))
    assert rows_to_train([differing], keep_all=False) == [differing]
    batch = collate([plain, differing], AUDIO, mel_of, num_mel_bins=4)
    assert batch.advantages_T.tolist() == [0.5, 0.5, 0.5, 1.0, 0.0, -1.0]
    assert batch.response_index_T.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.old_logprobs_T.tolist() == []
    known = [replace(r, old_logprobs=(-1.0, -2.0, float(-i))) for i, r in enumerate((plain, differing))]
    assert collate(known, AUDIO, mel_of, 4).old_logprobs_T.tolist() == [-1.0, -2.0, 0.0, -1.0, -2.0, -1.0]


def test_collate_against_a_reconstruction():
    first = row((1, AUDIO, 2), "a", (3, AUDIO, 4), 0.5, True, seed=1)  # the response samples the placeholder's id
    rows = [
        first,
        replace(first, response=(7, 8), rollout_logprobs=(-5.0, -6.0)),  # behind the same prompt
        row((5, 6), (), (7,), -1.0, False, seed=2),  # no clip
        row((AUDIO, 8, AUDIO), "ca", (AUDIO, AUDIO), 2.0, True, seed=3),  # two clips, one shared with the first row
        row((AUDIO,), "b", (9,) * 6, 0.0, False, seed=4),
    ]
    batch = collate(rows, AUDIO, mel_of, num_mel_bins=4)
    prompts = [rows[i].prompt for i in (0, 2, 3, 4)]
    assert batch.num_computed_tokens == sum(map(len, prompts)) + sum(len(r.response) for r in rows)
    assert batch.num_row_tokens == sum(len(r.prompt) + len(r.response) for r in rows)
    ids, positions = batch.input_ids[0].tolist(), batch.position_ids[0].tolist()

    token = start = 0
    prompt_starts = []
    for index, r in enumerate(rows):
        if index == 0 or r.prompt is not rows[index - 1].prompt:
            prompt_starts.append(start)
            prompt_end = start + len(r.prompt)
            assert tuple(ids[start:prompt_end]) == r.prompt
            assert positions[start:prompt_end] == list(range(len(r.prompt)))
            start = prompt_end
        assert tuple(ids[start : start + len(r.response)]) == r.response
        for position, target in enumerate(r.response):
            seen = int(batch.hidden_index_T[token])
            assert seen == (start + position - 1 if position else prompt_end - 1), (
                "the state before a token predicts it"
            )
            assert positions[start + position] == len(r.prompt) + position
            assert int(batch.targets_T[token]) == target
            assert float(batch.rollout_logprobs_T[token]) == r.rollout_logprobs[position]
            assert float(batch.advantages_T[token]) == r.advantage
            assert bool(batch.comparable_T[token]) == r.comparable
            token += 1
        start += len(r.response)
    assert token == len(batch.hidden_index_T) == len(batch.targets_T) == len(batch.advantages_T)

    expected = []
    clips = ["a", "c", "b"]  # in order of first appearance, each once
    for prompt_start, r in zip(prompt_starts, (rows[i] for i in (0, 2, 3, 4)), strict=True):
        columns = [prompt_start + column for column, t in enumerate(r.prompt) if t == AUDIO]
        for clip in r.clips:
            for position in range(num_audio_tokens(FRAMES[clip])):
                expected.append((columns.pop(0), clips.index(clip), position))
        assert not columns
    found = torch.stack([batch.audio_columns, batch.audio_clips, batch.audio_positions], dim=1)
    assert [tuple(f) for f in found.tolist()] == expected
    assert batch.num_mel_frames == tuple(FRAMES[clip] for clip in clips)
    for mel, clip in zip(batch.mel, clips, strict=True):
        frames = FRAMES[clip] + 2
        assert (mel[:, :frames] == ord(clip)).all()
        assert (mel[:, frames:] == 0).all()


def test_text_only_rows_need_no_clips():
    batch = collate([row(), row((1,), (), (2,))], -1, mel_of, num_mel_bins=0)
    assert batch.num_mel_frames == ()
    assert batch.audio_columns.numel() == batch.mel.numel() == 0


def test_a_prompt_of_another_clip_is_noticed():
    with pytest.raises(AssertionError, match="expanded for this very clip"):
        collate([Row((AUDIO,), ("a",), (1,), (0.0,), 1.0, True)], AUDIO, mel_of, 4)
    with pytest.raises(AssertionError, match="belongs to a clip"):
        collate([Row((AUDIO,) * 5, ("a",), (1,), (0.0,), 1.0, True)], AUDIO, mel_of, 4)


def test_a_filler_differs_in_weight_alone():
    batch = collate([row()], -1, mel_of, 0)
    filler = batch.as_filler()
    assert (batch.weight, filler.weight) == (1.0, 0.0)
    assert filler.input_ids is batch.input_ids


def group(name, lengths, prompt=10):
    responses = tuple((1,) * n for n in lengths)
    logprobs = tuple((0.0,) * n for n in lengths)
    return TrainGroup(GroupId(0, name), (2,) * prompt, (), responses, logprobs, (0.0,) * len(lengths), (), 0)


def test_tokens_of_a_group():
    assert num_train_tokens(group("a", (5, 7))) == 10 + 12


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_ranks_get_equally_many_groups_each_once(num_ranks, per_rank, data):
    total = num_ranks * per_rank
    lengths = data.draw(st.lists(st.integers(1, 500), min_size=total, max_size=total))
    groups = [group(str(i), (n,)) for i, n in enumerate(lengths)]
    shares = share_groups(groups, num_ranks)
    assert [len(share) for share in shares] == [per_rank] * num_ranks
    assert sorted(g.id.question_id for share in shares for g in share) == sorted(g.id.question_id for g in groups)
    costs = [sum(map(num_train_tokens, share)) for share in shares]
    assert max(costs) - min(costs) <= max(map(num_train_tokens, groups)), "balanced to within the largest group"


def test_a_mini_batch_does_not_depend_on_the_number_of_ranks():
    groups = [group(str(n), (n,), prompt=0) for n in (10, 100, 20, 30, 50, 40)]
    for num_ranks in (1, 2):
        parts = zip(*share_minibatches(groups, 3, num_ranks), strict=True)
        cut = [{g.id.question_id for share in part for g in share} for part in parts]
        assert cut == [{"10", "100"}, {"20", "30"}, {"50", "40"}]
