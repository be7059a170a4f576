"""What a check of the data finds, and what it leaves alone. Files are decoded in this process."""

import json

import pytest

from ssr1_rl.config.sections.data import DataConfig, DatasetConfig
from ssr1_rl.data.check.findings import check_data
from ssr1_rl.data.check.measure import measure_clip, measure_video
from ssr1_rl.data.check.report import ERRORS, NOTES
from ssr1_rl.data.check.splits import named_splits
from ssr1_rl.types import AudioRef, VideoRef
from tests.unit.data import distributed
from tests.unit.data.distributed import film, put, wav

ROW = {"question": "Which?", "choices": ["dog", "cat"], "answer": "dog"}


def check(data):
    def measure(files):
        return [measure_clip(file, data) if isinstance(file, AudioRef) else measure_video(file) for file in files]

    return check_data(named_splits(data), measure)


@pytest.fixture
def split(tmp_path):
    """Writes the questions of a split, numbered, beside two clips of different sounds."""
    put(tmp_path, a__wav=wav(0.5, seed=1), b__wav=wav(1.0, seed=2))

    def write(name, *rows, **settings):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({"id": i} | ROW | row) for i, row in enumerate(rows)))
        return DatasetConfig(format="jsonl", path=str(path), **settings)

    return write


def found(report, split="data.train"):
    return [(finding.kind, finding.where.rpartition("/")[2]) for finding in report.findings if finding.split == split]


def test_nothing_is_wrong(split):
    train = split("train", {"audio": "a.wav"}, {"audio": "b.wav"}, {"audio": "a.wav", "question": "What?"})
    report = check(DataConfig(train=train, validation={"v": split("v", {"question": "Who?"})}))
    assert report.is_ok and not report.findings
    of_train, of_v = report.splits
    assert (of_train.split, of_train.num_rows, of_train.num_questions, of_train.num_clips) == ("data.train", 3, 3, 2)
    assert (of_train.audio_s, of_train.longest_s) == (1.5, 1.0)
    assert (of_v.split, of_v.num_clips, of_v.longest_s) == ("data.validation.v", 0, 0.0)


def test_rows_that_cannot_be_read_are_listed_by_kind(split):
    rows = [
        {"audio": "a.wav"},
        {"audio": "gone.wav"},
        {"audio": "../a.wav"},
        {"answer": "hen"},
        {"answer": 2},
        {"id": 0, "question": "Other?"},
        {"question": ""},
        {"choices": ["dog"]},
    ]
    report = check(DataConfig(train=split("train", *rows)))
    assert found(report) == [
        ("missing clip", "train.jsonl row 2"),
        ("path outside", "train.jsonl row 3"),
        ("answer outside choices", "train.jsonl row 4"),
        ("answer outside choices", "train.jsonl row 5"),
        ("repeated id", "train.jsonl row 6"),
        ("bad row", "train.jsonl row 7"),
        ("bad row", "train.jsonl row 8"),
    ]
    assert not report.is_ok
    assert report.findings[0].reason.startswith("audio: no such file: ")
    assert report.splits[0].num_rows == 8 and report.splits[0].num_questions == 1


def test_clips_that_cannot_be_decoded_are_listed_once_with_their_first_row(split, tmp_path):
    put(tmp_path, broken__wav=b"RIFF and no more", text__wav=b"hello", short__wav=wav(0.01))
    rows = [{"audio": name, "question": f"{i}?"} for i, name in enumerate(["broken.wav", "broken.wav", "text.wav"])]
    report = check(DataConfig(train=split("train", *rows, {"audio": ["a.wav", "short.wav"]})))
    assert found(report) == [
        ("broken clip", "train.jsonl row 1"),
        ("broken clip", "train.jsonl row 3"),
        ("broken clip", "train.jsonl row 4"),
    ]
    assert "too short" in report.findings[2].reason


@pytest.mark.parametrize(
    ("long_audio", "kind", "is_ok"), [("skip", "clip too long", False), ("crop", "clip cut", True)]
)
def test_clips_that_are_too_long_are_wrong_only_if_their_questions_are_skipped(split, long_audio, kind, is_ok):
    train = split("train", {"audio": "a.wav"}, {"audio": "b.wav"})
    report = check(DataConfig(train=train, max_audio_s=0.7, long_audio=long_audio))
    assert found(report) == [(kind, "train.jsonl row 2")]
    assert "b.wav: 1.00 s is longer than data.max_audio_s=0.7" in report.findings[0].reason
    assert report.is_ok == is_ok
    assert report.splits[0].longest_s == (0.7 if is_ok else 0.5)
    assert is_ok == (not report.findings[0].reason.endswith("crop"))


def test_a_question_that_is_there_twice_is_found_under_any_name_of_its_clip(split, tmp_path):
    put(tmp_path, copy__wav=wav(0.5, seed=1))
    rows = [
        {"audio": "a.wav"},
        {"audio": "copy.wav", "choices": ["Cat", "dog "]},
        {"audio": "a.wav", "answer": "cat", "question": "which?"},
        {"audio": "b.wav"},
        {"audio": "a.wav", "question": "Why?"},
        {"audio": "a.wav", "choices": ["dog", "cat", "hen"]},
        {},
        {},
    ]
    report = check(DataConfig(train=split("train", *rows)))
    assert found(report) == [
        ("repeated question", "train.jsonl row 2"),
        ("two answers", "train.jsonl row 3"),
        ("repeated question", "train.jsonl row 8"),
        ("equal clips", "train.jsonl row 2"),
    ]
    assert report.findings[1].reason.endswith("row 1 with another answer ('cat' here, 'dog' there)")
    assert "copy.wav: the same sound as" in report.findings[3].reason


def test_what_validation_shares_with_training_is_found(split):
    train = split("train", {"audio": "a.wav"}, {"audio": "b.wav"})
    v = split("v", {"audio": "b.wav"}, {"audio": "a.wav", "question": "Who?"}, {"question": "Why?"})
    report = check(DataConfig(train=train, validation={"v": v}))
    assert found(report) == []
    assert found(report, "data.validation.v") == [
        ("question of train", "v.jsonl row 1"),
        ("clip of train", "v.jsonl row 1"),
        ("clip of train", "v.jsonl row 2"),
    ]
    assert "train.jsonl row 2, which is trained on" in report.findings[0].reason


def test_videos(split, tmp_path):
    put(tmp_path / "videos", a__mp4=film(), b__mp4=b"no video", **{"c/1.png": b"no picture"})
    put(tmp_path, c__wav=wav(0.3, seed=3), d__wav=wav(0.4, seed=4))
    rows = [{"audio": f"{name}.wav"} for name in "abcd"]
    report = check(DataConfig(train=split("train", *rows, video_dir=str(tmp_path / "videos"))))
    assert sorted(found(report)) == [
        ("broken video", "train.jsonl row 2"),
        ("broken video", "train.jsonl row 3"),
        ("missing video", "train.jsonl row 4"),
    ]
    assert report.splits[0].num_videos == 3


def test_a_split_that_cannot_be_read_does_not_hide_the_others(split, tmp_path):
    (tmp_path / "folder.json").mkdir()
    data = DataConfig(
        train=DatasetConfig(path=str(tmp_path / "gone.json")),
        validation={
            "v": split("v", {"answer": "hen"}, {}),
            "w": DatasetConfig(path=str(tmp_path / "folder.json")),
            "x": split("x", {}, audio_dir=str(tmp_path / "nowhere")),
        },
    )
    report = check(data)
    assert [(finding.split, finding.kind) for finding in report.findings] == [
        ("data.train", "unreadable split"),
        ("data.validation.v", "answer outside choices"),
        ("data.validation.w", "unreadable split"),
        ("data.validation.x", "unreadable split"),
    ]
    assert [summary.split for summary in report.splits] == ["data.validation.v"]


def test_the_report_as_json(split):
    report = check(DataConfig(train=split("train", {"audio": "gone.wav"}, {"audio": "a.wav"})))
    read = json.loads(json.dumps(report.as_json()))
    assert read["ok"] is False
    assert read["splits"][0]["counts"] == {"missing clip": 1} and read["splits"][0]["num_rows"] == 2
    assert read["findings"][0]["is_error"] and read["findings"][0]["where"].endswith("train.jsonl row 1")


def test_data_sets_as_they_are_distributed(tmp_path):
    questions, clips = distributed.avqa(tmp_path)
    music, music_clips = distributed.music_avqa(tmp_path)
    data = DataConfig(
        train=DatasetConfig(format="avqa", path=str(questions), audio_dir=str(clips)),
        validation={
            "mmau": DatasetConfig(format="mmau", path=str(distributed.mmau(tmp_path))),
            "music": DatasetConfig(
                format="music_avqa", path=str(music), audio_dir=str(music_clips), choices_from_answers=True
            ),
        },
    )
    report = check(data)
    assert report.counts("data.train") == {
        "bad row": 2,
        "missing clip": 1,
        "path outside": 2,
        "answer outside choices": 1,
        "equal clips": 1,
    }
    assert report.counts("data.validation.mmau")["answer outside choices"] == 1
    assert report.counts("data.validation.music")["bad row"] == 3
    assert any("stay open, because they all have one answer" in note for note in report.notes)


def test_every_kind_is_either_an_error_or_a_note():
    assert not set(ERRORS) & set(NOTES)
    assert measure_video(VideoRef("nowhere.mp4")).kind in ERRORS
    assert measure_clip(AudioRef("nowhere.wav"), DataConfig()).kind in ERRORS
