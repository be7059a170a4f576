"""A frozen tower runs once per clip while the cache has room, equally often on every rank, and changes no result."""

import numpy as np
import pytest
import torch

from ssr1_rl.audio_families import QWEN2_AUDIO
from ssr1_rl.trainer.batches.clips import ByteCache, ClipInputs
from ssr1_rl.trainer.batches.rows import Row, collate
from ssr1_rl.trainer.batches.tower_outputs import TowerOutputs
from ssr1_rl.trainer.model.families import load_model
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX
from tests.unit.gradients import check_gradients, gradients

WIDTH, NUM_MEL_BINS = 4, 128


class Clip:
    """A clip with a short key."""

    def __init__(self, name, num_frames=40):
        self.key = name
        rng = np.random.default_rng(sum(map(ord, name)))
        self.waveform = (0.3 * rng.standard_normal(160 * num_frames)).astype(np.float32)


class Tower:
    """Counts the clips of each pass; its output is a clip's mean level, times the position."""

    def __init__(self):
        self.passes = []

    def __call__(self, clips):
        assert not torch.is_grad_enabled()
        self.passes.append(list(clips.input_lengths))
        positions = torch.arange(1.0, 1 + max(map(QWEN2_AUDIO.num_tokens, clips.input_lengths)))
        return clips.inputs.mean(dim=(1, 2))[:, None, None] * positions[:, None].expand(-1, WIDTH)


@pytest.fixture
def make(random_audio_model):
    """(outputs, tower) of this rank; `others` is the number of passes of the rank that lacks most clips."""

    def make(max_bytes=2**20, max_tokens=1000, others=0.0):
        tower = Tower()
        clips = ClipInputs(str(random_audio_model), lambda clip: clip.waveform, max_bytes=0)
        return TowerOutputs(clips, tower, lambda own: max(own, others), NUM_MEL_BINS, max_bytes, max_tokens), tower

    return make


def test_each_clip_once(make):
    outputs, tower = make()
    a, b = Clip("a"), Clip("b", 80)
    outputs.prepare([a, b, a, Clip("a")])
    assert tower.passes == [[80, 40]], "together, the longest first"
    outputs.prepare([b, a])
    outputs.prepare([])
    assert len(tower.passes) == 1
    assert outputs.take_counts() == (4, 2)
    outputs.prepare([Clip("c"), a])
    assert tower.passes[1:] == [[40]]
    assert outputs.take_counts() == (2, 1)


def test_an_output_is_the_clips_own(make):
    outputs, _ = make()
    clips = [Clip("a"), Clip("b", 81), Clip("c", 5)]
    outputs.prepare(clips)
    together = {clip.key: outputs(clip) for clip in clips}
    for clip, num_frames in zip(clips, (40, 81, 5), strict=True):
        key, output, frames = together[clip.key]
        assert (key, frames) == (clip.key, num_frames)
        assert output.shape == (WIDTH, QWEN2_AUDIO.num_tokens(num_frames))
        assert output[0, -1] == pytest.approx(float(output[0, 0] * output.shape[1]))


def test_what_finds_no_room_is_at_hand_for_now_and_computed_again(make):
    outputs, tower = make(max_bytes=2 * 4 * WIDTH * QWEN2_AUDIO.num_tokens(40))
    a, b, c = Clip("a"), Clip("b"), Clip("c")
    outputs.prepare([a, b, c])
    assert [outputs(clip)[0] for clip in (a, b, c)] == ["a", "b", "c"]
    outputs.prepare([b, c])
    assert len(tower.passes) == 1
    outputs.prepare([a])
    assert tower.passes[1:] == [[40]]
    outputs.prepare([c])
    assert len(tower.passes) == 2
    outputs.prepare([b])
    assert len(tower.passes) == 3, "a took the place of b, which was used least recently"
    with pytest.raises(KeyError):
        outputs(a)


def test_without_room_for_anything(make):
    outputs, tower = make(max_bytes=0)
    for _ in range(2):
        outputs.prepare([Clip("a")])
        assert outputs(Clip("a"))[1].shape == (WIDTH, 10)
    assert tower.passes == [[40], [40]]


def test_passes_keep_within_the_budget(make):
    outputs, tower = make(max_tokens=25)
    outputs.prepare([Clip(str(i), num_frames) for i, num_frames in enumerate((40, 80, 8, 400, 20, 40))])
    assert tower.passes == [[400], [80], [40, 40], [20, 8]]


def test_a_rank_runs_as_many_passes_as_the_one_that_lacks_most(make):
    outputs, tower = make(others=3)
    outputs.prepare([Clip("a")])
    assert tower.passes == [[40], [3], [3]]
    outputs.prepare([Clip("a")])
    assert tower.passes[3:] == [[3], [3], [3]], "it has all, and still keeps step"
    assert outputs.take_counts() == (2, 1)


def test_bytes_are_bounded_and_counted():
    cache = ByteCache(30)
    for key in "abc":
        cache.put(key, (torch.zeros(3), 1))
    assert cache.num_bytes == 24
    assert cache.get("a") is None
    assert cache.get("b") is not None
    cache.put("d", (torch.zeros(1), 1))
    assert cache.num_bytes == 28
    cache.put("e", (torch.zeros(1), 1))
    assert cache.get("c") is None, "b was used later"
    assert cache.num_bytes == 20
    cache.put("f", (torch.zeros(100), 1))
    assert cache.num_bytes == 0


@pytest.fixture(params=["random_audio_model", "random_omni_model"])
def model(request):
    return load_model(str(request.getfixturevalue(request.param)), torch.float32, "sdpa")


def rows_with(model, clips_of_groups):
    """Rows of groups of two responses; each prompt has its clips between two words."""
    placeholder, rows = model.config.audio_token_id, []
    for index, clips in enumerate(clips_of_groups):
        counts = [QWEN2_AUDIO.num_tokens(len(clip.waveform) // 160) for clip in clips]
        prompt = (11 + index, *(placeholder for count in counts for _ in range(count)), 12)
        rows += [
            Row(prompt, tuple(clips), response, (0.0,) * 3, 1.0, True, num_audio_tokens=tuple(counts))
            for response in ((13, 14, 15), (16, 17, 18))
        ]
    return rows


def test_encoded_clips_change_no_result(model):
    rows = rows_with(model, [(Clip("a"), Clip("b", 300)), (), (Clip("b", 300),)])
    clips = ClipInputs(model.config._name_or_path, lambda clip: clip.waveform)
    config = model.config.audio_config
    policy = Policy(model, SOFTMAX, train_audio_tower=False)
    outputs = TowerOutputs(clips, policy, lambda own: own, config.num_mel_bins, 2**30, 1000)
    outputs.prepare(clip for row in rows for clip in row.clips)

    def pass_of(batch):
        logprobs, _ = policy(batch)
        weights = torch.randn(len(logprobs), generator=torch.Generator().manual_seed(0))
        return logprobs, gradients(model, (weights * logprobs).sum())

    expected = pass_of(collate(rows, model.config.audio_token_id, clips, config.num_mel_bins))
    found = pass_of(collate(rows, model.config.audio_token_id, outputs, config.d_model, encoded=True))
    assert (found[0] - expected[0]).abs().max() <= 1e-5
    check_gradients(found[1], expected[1])


@pytest.mark.parametrize("encoded", [False, True])
def test_all_that_is_trained_has_a_gradient_without_any_clip(model, encoded):
    policy = Policy(model, SOFTMAX, train_audio_tower=not encoded)
    config = model.config.audio_config
    channels = config.d_model if encoded else config.num_mel_bins
    batch = collate(rows_with(model, [()]), model.config.audio_token_id, lambda clip: clip, channels, encoded=encoded)
    found = gradients(model, policy(batch)[0].sum())
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(gradient.any() for name, gradient in found.items() if "audio_tower" in name)
