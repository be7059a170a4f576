"""The silent video of a question: a file named as its clip, a folder of stills, or what a column says."""

import json

import pyarrow as pa
import pytest

from ssr1_rl.config.sections.data import ColumnsConfig, DataConfig, DatasetConfig
from ssr1_rl.data.read import read_all, read_questions
from ssr1_rl.data.splits import read_splits
from ssr1_rl.errors import MissingFile, UserError
from ssr1_rl.types import VideoRef
from tests.unit.data import distributed
from tests.unit.data.distributed import COLUMNS, film, parquet, put, table, wav
from tests.unit.data.test_readers import AVQA_ROW

ROW = {"id": 1, "question": "Which?", "answer": "cat"}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def jsonl(tmp_path, *rows, **settings):
    put(tmp_path / "clips", a__wav=wav(), **{"deep/b.wav": wav()})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"audio_dir": str(tmp_path / "clips"), "video_dir": str(tmp_path / "videos")} | settings
    return DatasetConfig(format="jsonl", path=str(tmp_path / "rows.jsonl"), **settings)


@pytest.mark.parametrize("name", ["-HG3Omg_89c_000030.mp4", "-HG3Omg_89c_30.webm", "-HG3Omg_89c_000030.MKV"])
def test_avqa_s_video_has_the_name_of_its_clip(tmp_path, videos, name):
    put(tmp_path, **{"clips/-HG3Omg_89c_000030.wav": wav(), f"videos/{name}": b"film"})
    (tmp_path / "rows.json").write_text(json.dumps([AVQA_ROW]))
    config = DatasetConfig(path=str(tmp_path / "rows.json"), audio_dir=str(tmp_path / "clips"), video_dir=str(videos))
    assert read_all(config).questions[0].video == VideoRef(str(videos / name))
    config.video_dir = ""
    assert read_all(config).questions[0].video is None


def test_a_folder_of_stills_is_read_in_the_order_of_its_numbers(tmp_path, videos):
    names = ["frame_10.jpg", "frame_9.PNG", "frame_1.jpeg"]
    put(videos / "a", **dict.fromkeys([*names, "._frame_1.jpg", "notes.txt"], b"x"))
    (question,) = read_all(jsonl(tmp_path, ROW | {"audio": "a.wav"})).questions
    assert question.video == VideoRef(stills=tuple(str(videos / "a" / name) for name in reversed(names)))


def test_a_video_is_preferred_to_stills(tmp_path, videos):
    put(videos, **{"a/1.jpg": b"x", "a.mp4": b"film"})
    assert read_all(jsonl(tmp_path, ROW | {"audio": "a.wav"})).questions[0].video == VideoRef(str(videos / "a.mp4"))


@pytest.mark.parametrize("value", ["deep/b.mp4", "deep/b", "./deep/b.mp4", None])
def test_a_column_names_it_or_else_the_clip(tmp_path, videos, value):
    put(videos, **{"deep/b.mp4": b"film"})
    (question,) = read_all(jsonl(tmp_path, ROW | {"audio": "deep/b.wav", "video": value})).questions
    assert question.video == VideoRef(str(videos / "deep/b.mp4"))
    assert question.metadata == {}


def test_another_column_and_one_still(tmp_path, videos):
    put(videos, **{"x.png": b"x"})
    config = jsonl(tmp_path, ROW | {"audio": "a.wav", "film": "x.png"}, columns=ColumnsConfig(video="film"))
    assert read_all(config).questions[0].video == VideoRef(stills=(str(videos / "x.png"),))


def test_one_file_may_be_clip_and_video(tmp_path, videos):
    put(videos, x__mp4=film())
    columns = ColumnsConfig(audio="film", video="film")
    config = jsonl(tmp_path, ROW | {"film": "x.mp4"}, columns=columns, audio_dir=str(videos))
    (question,) = read_all(config).questions
    assert (question.audio[0].path, question.video) == (str(videos / "x.mp4"), VideoRef(str(videos / "x.mp4")))


def test_no_column_means_no_column_not_the_one_without_a_name(tmp_path, videos):
    put(videos, a__mp4=b"film")
    config = jsonl(tmp_path, ROW | {"audio": "a.wav", "": "b.mp4"}, columns=ColumnsConfig(video=""))
    (question,) = read_all(config).questions
    assert question.video == VideoRef(str(videos / "a.mp4")) and question.metadata == {"": "b.mp4"}


def test_without_a_folder_of_videos_the_column_is_metadata(tmp_path):
    (question,) = read_all(jsonl(tmp_path, ROW | {"audio": "a.wav", "video": "gone.mp4"}, video_dir="")).questions
    assert question.video is None and question.metadata == {"video": "gone.mp4"}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"audio": "a.wav"}, "no video or folder of stills named a in"),
        ({"audio": "a.wav", "video": "gone.mp4"}, "no video or folder of stills named gone in"),
        ({"audio": "a.wav", "video": "empty"}, "empty' holds no image"),
        ({"audio": "a.wav", "video": "../a.mp4"}, "leads outside of"),
        ({"audio": "a.wav", "video": "/etc/passwd"}, "leads outside of"),
        ({"audio": "a.wav", "video": 3}, "expected the path of a video, got 3"),
        ({"audio": "a.wav", "video": "https://x.org/a.mp4"}, "is an address; download the video"),
        ({}, "names no video, and the row has 0 clips"),
        ({"audio": ["a.wav", "deep/b.wav"]}, "names no video, and the row has 2 clips"),
    ],
)
def test_a_missing_video_is_a_row_error(tmp_path, videos, row, said):
    (videos / "empty").mkdir()
    put(tmp_path, a__mp4=b"film")
    (skipped,) = read_all(jsonl(tmp_path, ROW | row)).skipped
    assert skipped.field == "video" and said in skipped.reason


def test_no_video_at_all_is_one_sentence_about_the_folder(tmp_path, videos):
    rows = [ROW | {"id": number, "audio": "a.wav"} for number in range(20)]
    with pytest.raises(UserError, match=r"20 of 20 rows cannot be used for one reason.*is video_dir=.*videos right\?"):
        read_questions(jsonl(tmp_path, *rows), 0.5)
    config = jsonl(tmp_path, *rows, video_dir="nowhere")
    with pytest.raises(MissingFile, match=r"data\.train\.video_dir nowhere is not a folder"):
        read_splits(DataConfig(train=config))


def test_mmau_and_music_avqa(tmp_path, videos):
    put(videos / "test-mini-audios", **{"3fe64f3d-282c-4bc8-a753-68f8f6c35652.mp4": b"film"})
    questions = distributed.mmau(tmp_path)
    result = read_all(DatasetConfig(format="mmau", path=str(questions), video_dir=str(videos)))
    assert result.questions[0].video == VideoRef(
        str(videos / "test-mini-audios/3fe64f3d-282c-4bc8-a753-68f8f6c35652.mp4")
    )
    put(videos, **{"00000093.mp4": b"film"})
    questions, clips = distributed.music_avqa(tmp_path)
    config = DatasetConfig(format="music_avqa", path=str(questions), audio_dir=str(clips), video_dir=str(videos))
    assert [q.video for q in read_all(config).questions] == [VideoRef(str(videos / "00000093.mp4"))] * 3


def test_videos_as_bytes_are_kept_if_videos_are_wanted(tmp_path, videos):
    clips, content = [{"bytes": wav(), "path": None}], film()
    file = parquet(tmp_path / "rows.parquet", table(clips, video=pa.array([content])))
    config = DatasetConfig(format="parquet", path=str(file), columns=COLUMNS, clip_cache_dir=str(tmp_path / "kept"))
    assert read_all(config).questions[0].video is None
    config.video_dir = str(videos)
    (question,) = read_all(config).questions
    with open(question.video.path, "rb") as kept:
        assert kept.read() == content
