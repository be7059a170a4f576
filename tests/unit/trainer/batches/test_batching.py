"""Rows -> the tensors of a pass: everything in the right place."""

from dataclasses import replace

import pytest
import torch

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.trainer.batches.rows import Row, collate

AUDIO = 99
FRAMES = {"a": 9, "b": 14, "c": 40}  # mel frames of clips; 2, 3 and 10 audio tokens


def row(prompt=(1, 2), clips=(), response=(3, 4, 5), advantage=1.0, comparable=True, seed=0.0):
    lengths = tuple(QWEN2_AUDIO.num_tokens(FRAMES[clip]) for clip in clips)
    expanded = []
    remaining = iter(lengths)
    for token in prompt:
        expanded += [token] * next(remaining) if token == AUDIO else [token]
    logprobs = tuple(-seed - i / 8 for i in range(len(response)))
    clips, response = tuple(clips), tuple(response)
    return Row(tuple(expanded), clips, response, logprobs, advantage, comparable, num_audio_tokens=lengths)


def mel_of(handle):
    return handle, torch.full((4, FRAMES[handle] + 2), float(ord(handle))), FRAMES[handle]


def test_advantages_of_tokens():
    plain, differing = row(advantage=0.5), replace(row(advantage=0.0), token_advantages=(1.0, 0.0, -1.0))
    batch = collate([plain, differing], AUDIO, mel_of, num_channels=4)
    assert batch.advantages_T.tolist() == [0.5, 0.5, 0.5, 1.0, 0.0, -1.0]
    assert batch.response_index_T.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.old_logprobs_T.tolist() == []
    known = [replace(r, old_logprobs=(-1.0, -2.0, float(-i))) for i, r in enumerate((plain, differing))]
    assert collate(known, AUDIO, mel_of, 4).old_logprobs_T.tolist() == [-1.0, -2.0, 0.0, -1.0, -2.0, -1.0]


def test_collate_against_a_reconstruction():
    first = row((1, AUDIO, 2), "a", (3, AUDIO, 4), 0.5, True, seed=1)  # the response samples the placeholder's id
    rows = [
        first,
        replace(first, response=(7, 8), rollout_logprobs=(-5.0, -6.0)),  # with the same prompt
        row((5, 6), (), (7,), -1.0, False, seed=2),  # no clip
        row((AUDIO, 8, AUDIO), "ca", (AUDIO, AUDIO), 2.0, True, seed=3),  # two clips, one shared with the first row
        row((AUDIO,), "b", (9,) * 6, 0.0, False, seed=4),
    ]
    batch = collate(rows, AUDIO, mel_of, num_channels=4)
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
            for position in range(QWEN2_AUDIO.num_tokens(FRAMES[clip])):
                expected.append((columns.pop(0), clips.index(clip), position))
        assert not columns
    found = torch.stack([batch.feature_columns, batch.feature_clips, batch.feature_positions], dim=1)
    assert [tuple(f) for f in found.tolist()] == expected
    assert batch.input_lengths == tuple(FRAMES[clip] for clip in clips)
    for mel, clip in zip(batch.inputs, clips, strict=True):
        frames = FRAMES[clip] + 2
        assert (mel[:, :frames] == ord(clip)).all()
        assert (mel[:, frames:] == 0).all()


def test_text_only_rows_need_no_clips():
    batch = collate([row(), row((1,), (), (2,))], -1, mel_of, num_channels=0)
    assert batch.input_lengths == ()
    assert batch.feature_columns.numel() == batch.inputs.numel() == 0


def test_a_prompt_of_another_clip_is_noticed():
    with pytest.raises(AssertionError, match="as many placeholders as its clips have features"):
        collate([Row((AUDIO,), ("a",), (1,), (0.0,), 1.0, True, num_audio_tokens=(2,))], AUDIO, mel_of, 4)
    with pytest.raises(AssertionError, match="belongs to a clip"):
        collate([Row((AUDIO,) * 5, ("a",), (1,), (0.0,), 1.0, True, num_audio_tokens=(2,))], AUDIO, mel_of, 4)


def test_a_filler_differs_in_weight_alone():
    batch = collate([row()], -1, mel_of, 0)
    filler = batch.as_filler()
    assert (batch.weight, filler.weight) == (1.0, 0.0)
    assert filler.input_ids is batch.input_ids


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3.0])
def test_a_log_prob_that_is_none_is_out_of_the_loss_and_leaves_no_trace(bad):
    rows = [Row((1, 2), (), (3, 4, 5), (-1.0, bad, -2.0), 0.5, True), Row((1, 2), (), (6,), (-3.0,), -0.5, True)]
    batch = collate(rows, -1, lambda clip: pytest.fail("no clips here"), 0)
    assert batch.in_loss_T.tolist() == batch.comparable_T.tolist() == [True, False, True, True]
    assert batch.rollout_logprobs_T.tolist() == [-1.0, 0.0, -2.0, -3.0]
    assert batch.targets_T.tolist() == [3, 4, 5, 6], "the token stays in its response"
    assert [row.num_loss_tokens for row in rows] == [2, 1]
