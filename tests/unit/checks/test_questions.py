"""What a run reads is looked at before anything starts: audio, clips, one prompt of each split."""

import json

import numpy as np
import pytest
import soundfile

from ssr1_rl.checks.dry_run import print_dry_run
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.errors import UserError
from ssr1_rl.run import run_grpo
from ssr1_rl.types import SAMPLE_RATE


def rows(num, num_with_audio, clip="a.wav"):
    return [
        {"id": i, "question": f"How many beeps {i}?", "choices": ["one", "two"], "answer": "one", "level": i}
        | ({"audio": clip} if i < num_with_audio else {})
        for i in range(num)
    ]


@pytest.fixture
def split(tmp_path):
    """Writes the file of a split, and returns its settings."""
    soundfile.write(tmp_path / "a.wav", np.zeros(SAMPLE_RATE * 3 // 2), SAMPLE_RATE)
    (tmp_path / "empty.wav").touch()

    def write(rows, name="train"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return DatasetConfig(format="jsonl", path=str(path))

    return write


@pytest.fixture
def config(random_audio_model, split, tmp_path):
    config = Config()
    config.run.name, config.run.dir, config.run.device = "x", str(tmp_path / "run"), "cpu"
    config.model.path, config.data.train = str(random_audio_model), split(rows(4, 4))
    return config


def refused(config):
    with pytest.raises(UserError) as error:
        preflight(config)
    return str(error.value)


@pytest.mark.parametrize("which", ["data.train", "data.validation.v"])
def test_a_split_without_audio_is_refused_for_an_audio_model(config, split, which):
    silent = split(rows(991, 0), "silent")
    if which == "data.train":
        config.data.train = silent
    else:
        config.data.validation = {"v": silent}
    said = refused(config)
    assert said.startswith(f"{which}: 0 of 991 questions of {silent.path} have audio, but")
    assert "data.require_audio=false" in said
    config.data.require_audio = False
    assert preflight(config).notes == []


def test_a_real_run_refuses_it_too(config, split, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "init", lambda *_args, **_kwargs: pytest.fail("something was started"))
    config.data.train = split(rows(9, 0))
    with pytest.raises(UserError, match="0 of 9 questions"):
        run_grpo(config)


def test_a_text_only_model_needs_no_audio_and_takes_none(config, split, random_text_model):
    config.model.path = str(random_text_model)
    config.data.train = split(rows(5, 0))
    assert preflight(config).examples[0].num_audio_tokens == 0
    config.data.train = split(rows(5, 1))
    with pytest.raises(ValueError, match=r"the question has audio, but .* does not hear"):
        preflight(config)


def test_a_mixture_is_noted_with_its_share(config, split):
    config.data.train = split(rows(8, 2))
    assert preflight(config).notes == ["data.train: 2 of 8 questions have audio (25.0%)"]


def test_rows_that_are_left_out_are_noted(config, split):
    config.data.train = split([*rows(30, 30), *({"id": f"bad {i}"} for i in range(7))])
    config.data.max_skipped_share = 0.5
    checked = preflight(config)
    assert len(checked.splits.train.questions) == 30
    assert len(checked.notes) == 6
    assert checked.notes[0].startswith(f"left out: {config.data.train.path} row 31: ")
    assert checked.notes[-1] == f"… and 2 more rows of {config.data.train.path}"


def test_a_clip_that_cannot_be_used_is_noted_and_another_tried(config, split):
    config.data.train = split([*rows(1, 1, "empty.wav"), *rows(9, 9)[1:]])
    [note] = preflight(config).notes
    assert note.startswith("data.train: cannot be used: ") and "empty.wav: the file is empty" in note


@pytest.mark.parametrize("path", ["here", "Qwen/Qwen2-Audio-7B-Instruct"])
def test_clips_none_of_which_can_be_used_are_refused(config, split, path):
    if path != "here":
        config.model.path = path
    config.data.validation = {"v": split(rows(100, 100, "empty.wav"), "v")}
    said = refused(config)
    assert said.startswith("data.validation.v: none of 20 questions that were tried can be used, of 100 in")
    assert "empty.wav: the file is empty" in said


def test_prompts_that_are_all_too_long_are_refused(config):
    config.data.max_prompt_tokens = 8
    assert "more than data.max_prompt_tokens=8" in refused(config)


@pytest.mark.parametrize("content", ["", "id,question,answer\n1,x,y\n", "[]", '[{"a": 1}]', "folder"])
def test_a_file_that_cannot_be_read_is_refused_with_its_setting(config, tmp_path, content):
    path = tmp_path / "v.json"
    path.mkdir() if content == "folder" else path.write_text(content)
    config.data.validation = {"v": DatasetConfig(path=str(path))}
    assert refused(config).startswith(f"data.validation.v: {path}: ")


def test_a_dry_run_shows_what_was_read_and_one_prompt(config, split, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    config.data.train = split([*rows(200, 150), {"id": "bad"}])
    config.data.validation = {"v": split(rows(7, 7), "v")}
    print_dry_run(config)
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.strip().startswith(("│ data.train", "data.train")))
    assert row.replace("│", " ").split() == ["data.train", "jsonl", "200", "1", "150", "(75%)", "150", ".wav"]
    assert "data.validation.v" in text and "7 (100%)" in text
    assert f"note: left out: {config.data.train.path} row 201: answer: the field is missing" in text
    assert "note: data.train: 150 of 200 questions have audio (75.0%)" in text
    # 150 frames of mel make 37 audio tokens
    [example] = [line for line in text.splitlines() if line.startswith("one prompt")]
    assert f"{config.data.train.path} row 1, id 0: " in example and "37 of them for 1.50 s of audio" in example
    assert "Audio 1: <|audio_bos|><|AUDIO|><|audio_eos|>\nHow many beeps 0?\n(A) one\n(B) two\nThink about" in text
    assert "nothing was started" in text


def test_a_dry_run_says_what_it_leaves_out_without_the_model(config, capsys):
    config.model.path = "Qwen/Qwen2-Audio-7B-Instruct"
    print_dry_run(config)
    text = capsys.readouterr().out
    assert "left out: prompts and the model's shapes, because the model is not downloaded yet" in text
    assert "left out: the memory estimate, because Qwen/Qwen2-Audio-7B-Instruct cannot be downloaded" in text
    assert "4 (100%)" in text and "nothing was started" in text
