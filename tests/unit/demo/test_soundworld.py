"""The world of sounds is reproducible, complete, readable as AVQA, and answerable."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo import soundworld
from ssr1_rl.demo.chains import chain_of_thought, taught_answer
from ssr1_rl.demo.made_once import STAMP
from ssr1_rl.demo.scenes import KINDS, SceneStyle, make_scene
from ssr1_rl.demo.soundworld import SPLITS, WorldSettings, make_world

SMALL = WorldSettings(num_train=32, num_test=16, num_unseen_scenes=16, num_unseen_questions=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("worlds") / "small", SMALL)


def digests(paths):
    return {
        str(file.relative_to(paths.folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(paths.folder.rglob("*"))
        if file.is_file()
    }


def rows(paths, split):
    return json.loads(paths.questions(split).read_text())


def test_same_settings_same_bytes_and_another_seed_other_ones(world, tmp_path):
    assert digests(make_world(tmp_path / "again", SMALL)) == digests(world)
    other = digests(make_world(tmp_path / "other", dataclasses.replace(SMALL, seed=1)))
    assert other["audio/train_000000.wav"] != digests(world)["audio/train_000000.wav"]


def test_read_back_as_avqa(world):
    for split in SPLITS:
        result = read_questions(world.dataset(split), max_skipped_share=0.0)
        assert len(result.questions) == SMALL.num_questions(split) and not result.skipped
        assert {question.kind for question in result.questions} == set(KINDS)
        for question in result.questions:
            assert 2 <= len(question.choices) <= 4
            assert question.ground_truth in question.choices
    waveform = load_waveform(result.questions[0].audio[0], max_audio_s=30)
    assert waveform.shape == (32_000,) and np.abs(waveform).max() > 0.03


def test_splits_share_no_clip_and_no_id(world):
    clips = [digest for name, digest in digests(world).items() if name.endswith(".wav")]
    assert len(clips) == len(set(clips)) == 96
    ids = [row["id"] for split in SPLITS for row in rows(world, split)]
    assert len(ids) == len(set(ids)) == 96


def test_unseen_questions_are_worded_and_offered_otherwise(world):
    def asked(split):
        return {row["question_text"] for row in rows(world, split)}

    def offered(split):
        return {(row["question_type"], frozenset(row["multi_choice"])) for row in rows(world, split)}

    assert asked("train").isdisjoint(asked("unseen_questions"))
    assert asked("unseen_scenes") <= asked("train") | asked("test")
    assert offered("test") == offered("train") == offered("unseen_scenes")
    assert any(len(choices) == 3 for _, choices in offered("unseen_questions"))
    four_way = {"count", "timbre", "first", "last"}
    assert all(len(choices) < 4 for kind, choices in offered("unseen_questions") if kind in four_way)


def test_right_answers_are_spread_over_the_positions(tmp_path):
    world = make_world(
        tmp_path / "world", WorldSettings(num_train=400, num_test=0, num_unseen_scenes=0, num_unseen_questions=0)
    )
    positions = np.bincount([row["answer"] for row in rows(world, "train") if len(row["multi_choice"]) == 4])
    assert positions.min() > 30


def test_chains_belong_to_the_train_split_and_end_in_the_answer(tmp_path):
    world = make_world(tmp_path / "world", dataclasses.replace(SMALL, teacher_error_rate=0.0))
    chains = json.loads(world.chains.read_text())
    train = {question.id: question for question in read_questions(world.dataset("train"), 0.0).questions}
    assert chains.keys() == train.keys()
    for question_id, chain in chains.items():
        assert chain.startswith("<think> I hear ")
        assert chain.endswith(f" </think> <answer> {train[question_id].ground_truth} </answer>")


def test_the_teacher_mishears_what_it_may_mishear_and_nothing_else():
    rng = np.random.default_rng(0)
    taught = [taught_answer("timbre", "rattle", 0.7, rng) for _ in range(1000)]
    assert set(taught) == {"rattle", "hiss"}
    assert 0.65 < taught.count("hiss") / 1000 < 0.75
    assert taught_answer("timbre", "hiss", 1.0, rng) == "hiss"
    assert taught_answer("first", "rattle", 1.0, rng) == "rattle"


def test_a_chain_says_what_its_answer_sounds_like():
    assert chain_of_thought("count", "three") == "<think> I hear one two three </think> <answer> three </answer>"
    said = {chain_of_thought("direction", answer).split("</think>")[0] for answer in ("rising", "falling")}
    assert len(said) == 2


def test_a_finished_world_is_reused_and_an_interrupted_one_made_anew(tmp_path, monkeypatch):
    settings = WorldSettings(num_train=8, num_test=8, num_unseen_scenes=0, num_unseen_questions=0)
    write = soundworld._write_world

    def interrupted(paths, settings):
        write(paths, settings)
        (paths.folder / STAMP).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(soundworld, "_write_world", interrupted)
        make_world(tmp_path / "world", settings)
    assert not (tmp_path / "world").exists()
    (tmp_path / "world").mkdir()  # an empty folder is accepted
    paths = make_world(tmp_path / "world", settings)
    assert len(rows(paths, "train")) == 8
    with monkeypatch.context() as patch:
        patch.delattr(soundworld, "_write_world")
        assert make_world(tmp_path / "world", settings) == paths


def test_a_folder_of_something_else_is_left_alone(world, tmp_path):
    with pytest.raises(ValueError, match=r"other settings \(num_train, seed\); choose another folder"):
        make_world(world.folder, dataclasses.replace(SMALL, seed=5, num_train=8))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no sound world"):
        make_world(tmp_path, SMALL)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_scene_is_reproducible_and_within_full_scale(kind):
    one, two = (make_scene(kind, SceneStyle(), np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.samples, two.samples)
    assert np.abs(one.samples).max() <= 1 and one.answer in one.options and 2 <= len(one.options) <= 4


def loudness(samples, start_s, end_s):
    return np.sqrt(np.mean(samples[round(start_s * 16_000) : round(end_s * 16_000)] ** 2))


def pitch_hz(samples, start_s, end_s):
    part = samples[round(start_s * 16_000) : round(end_s * 16_000)]
    return np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() / (end_s - start_s)


@pytest.mark.parametrize("seed", range(8))
def test_answers_are_true_of_the_sound(seed):
    scenes = {kind: make_scene(kind, SceneStyle(), np.random.default_rng([seed, 1])) for kind in KINDS}
    beeps = [loudness(scenes["count"].samples, 0.1 + 0.45 * i, 0.3 + 0.45 * i) > 0.1 for i in range(4)]
    assert ["one", "two", "three", "four"][sum(beeps) - 1] == scenes["count"].answer
    first, second = (loudness(scenes["louder"].samples, at, at + 0.6) for at in (0.2, 1.1))
    assert scenes["louder"].answer == ("first" if first > second else "second")
    assert scenes["length"].answer == ("long" if loudness(scenes["length"].samples, 1.0, 1.5) > 0.05 else "short")
    assert scenes["pitch"].answer == ("high" if pitch_hz(scenes["pitch"].samples, 0.5, 1.2) > 1000 else "low")
    early, late = (pitch_hz(scenes["direction"].samples, at, at + 0.2) for at in (0.25, 1.55))
    assert scenes["direction"].answer == ("rising" if early < late else "falling")
