"""Rows -> padded micro-batches, and groups -> ranks: everything once, within budget, in the right place."""

import itertools

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
LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30)


def row(prompt=(1, 2), clips=(), response=(3, 4, 5), advantage=1.0, comparable=True, seed=0.0):
    expanded = []
    remaining = iter(clips)
    for token in prompt:
        expanded += [token] * num_audio_tokens(FRAMES[next(remaining)]) if token == AUDIO else [token]
    logprobs = tuple(-seed - i / 8 for i in range(len(response)))
    return Row(tuple(expanded), tuple(clips), tuple(response), logprobs, advantage, comparable)


def mel_of(handle):
    return handle, torch.full((4, FRAMES[handle] + 2), float(ord(handle))), FRAMES[handle]


@settings(max_examples=50, deadline=None)
@given(LENGTHS, st.integers(1, 300))
def test_every_row_once_and_within_the_budget(lengths, budget):
    rows = [Row((1,) * p, (), (2,) * r, (0.0,) * r, 1.0, True) for p, r in lengths]
    batches = list(cut_micro_batches(rows, budget))
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    for batch in batches:
        assert batch
        padded = len(batch) * max(row.num_tokens for row in batch)
        assert padded <= budget or len(batch) == 1
    # Nothing is wasted: the next batch's first row would not have fitted into the batch before.
    for before, after in itertools.pairwise(batches):
        assert (len(before) + 1) * before[0].num_tokens > budget
        assert after[0].num_tokens <= before[-1].num_tokens


def test_a_row_beyond_the_budget_goes_alone():
    rows = [row(response=(1,) * n) for n in (3, 50, 4)]
    sizes = [[len(r.response) for r in batch] for batch in cut_micro_batches(rows, 14)]
    assert sizes == [[50], [4, 3]]


def test_rows_without_gradient_are_left_out_but_one_stays():
    rows = [row(advantage=0.0), row(advantage=-0.5), row(response=()), row(advantage=0.7)]
    assert [r.advantage for r in rows_to_train(rows, keep_all=False)] == [-0.5, 0.7]
    assert [r.advantage for r in rows_to_train(rows, keep_all=True)] == [0.0, -0.5, 0.7]
    assert len(rows_to_train([row(response=()), row(advantage=0.0), row(advantage=0.0)], keep_all=False)) == 1
    assert rows_to_train([row(response=())], keep_all=True) == []


def test_collate_against_a_reconstruction():
    rows = [
        row((1, AUDIO, 2), "a", (3, AUDIO, 4), 0.5, True, seed=1),  # the response samples the placeholder's id
        row((5, 6), (), (7,), -1.0, False, seed=2),  # no clip
        row((AUDIO, 8, AUDIO), "ca", (AUDIO, AUDIO), 2.0, True, seed=3),  # two clips, one shared with the first row
        row((AUDIO,), "b", (9,) * 6, 0.0, False, seed=4),
    ]
    batch = collate(rows, AUDIO, mel_of, num_mel_bins=4)
    length = max(len(r.prompt) + len(r.response) for r in rows)
    assert batch.input_ids.shape == (4, length)
    assert batch.num_padded_tokens == 4 * length
    assert batch.num_row_tokens == sum(len(r.prompt) + len(r.response) for r in rows)
    for index, r in enumerate(rows):
        tokens = r.prompt + r.response
        assert batch.input_ids[index].tolist() == list(tokens) + [0] * (length - len(tokens))

    token = 0
    for index, r in enumerate(rows):
        for position, target in enumerate(r.response):
            seen = divmod(int(batch.hidden_index_T[token]), length)
            assert seen == (index, len(r.prompt) + position - 1), "the state before a token predicts it"
            assert int(batch.targets_T[token]) == target
            assert float(batch.old_logprobs_T[token]) == r.old_logprobs[position]
            assert float(batch.advantages_T[token]) == r.advantage
            assert bool(batch.comparable_T[token]) == r.comparable
            token += 1
    assert token == len(batch.hidden_index_T) == len(batch.targets_T) == len(batch.advantages_T)

    expected = []
    clips = ["a", "c", "b"]  # in order of first appearance, each once
    for index, r in enumerate(rows):
        columns = [column for column, t in enumerate(r.prompt) if t == AUDIO]
        for clip in r.clips:
            for position in range(num_audio_tokens(FRAMES[clip])):
                expected.append((index, columns.pop(0), clips.index(clip), position))
        assert not columns
    found = torch.stack([batch.audio_rows, batch.audio_columns, batch.audio_clips, batch.audio_positions], dim=1)
    assert [tuple(f) for f in found.tolist()] == expected
    assert batch.num_mel_frames == tuple(FRAMES[clip] for clip in clips)
    for mel, clip in zip(batch.mel, clips, strict=True):
        frames = FRAMES[clip] + 2
        assert (mel[:, :frames] == ord(clip)).all()
        assert (mel[:, frames:] == 0).all()


def test_text_only_rows_need_no_clips():
    batch = collate([row(), row((1,), (), (2,))], -1, mel_of, num_mel_bins=0)
    assert batch.num_mel_frames == ()
    assert batch.audio_rows.numel() == batch.mel.numel() == 0


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
    assert num_train_tokens(group("a", (5, 7))) == 2 * 10 + 12


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
