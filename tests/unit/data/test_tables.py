"""Users' own data: columns of any name, Parquet files, Hugging Face data sets, with clips inside of rows."""

import datetime
import decimal
import json

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import Audio, ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.features import List

from ssr1_rl.config.sections.data import ColumnsConfig, DataConfig, DatasetConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.read import read_all, read_questions
from ssr1_rl.data.splits import read_splits
from ssr1_rl.errors import MissingFile, UserError
from tests.unit.data import distributed
from tests.unit.data.distributed import CLIP, COLUMNS, parquet, put, table, wav
from tests.unit.data.media import noise


def test_json_lines_with_columns_of_other_names(tmp_path):
    put(tmp_path, a__wav=wav())
    path = tmp_path / "rows.jsonl"
    path.write_text(
        json.dumps({"prompt": "Which?", "label": 1, "options": ["dog", "cat"], "clip": "a.wav", "id": 7, "level": 3})
    )
    columns = ColumnsConfig(id="", question="prompt", answer="label", choices="options", audio="clip")
    config = DatasetConfig(format="jsonl", path=str(path), columns=columns)
    (question,) = read_questions(config, 0.0).questions
    assert (question.id, question.text, question.ground_truth) == ("1", "Which?", "cat"), "rows are counted"
    assert question.audio[0].path == str(tmp_path / "a.wav")
    assert question.metadata == {"id": 7, "level": 3}
    columns.kind = "genre"
    with pytest.raises(UserError, match=r"columns\.kind is 'genre', which no row has; the rows have \['clip', 'id'"):
        read_questions(config, 0.0)


@pytest.mark.parametrize("format", ["avqa", "mmau", "music_avqa"])
def test_columns_are_for_users_own_data_alone(format, tmp_path):
    with pytest.raises(UserError, match="the data set's columns are for the formats huggingface, jsonl, parquet"):
        read_all(DatasetConfig(format=format, path="x", columns=COLUMNS))
    with pytest.raises(UserError, match="the data set's split='test' is for the format huggingface"):
        read_all(DatasetConfig(format=format, path="x", split="test"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where clips that rows hold are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssr1_rl" / "clips"


def test_parquet_files_in_shards_with_clips_inside(tmp_path, cache):
    first = [{"bytes": wav(seed=1), "path": "x.wav"}, {"bytes": None, "path": "a.wav"}, {"bytes": b"", "path": None}]
    second = [{"bytes": distributed.film(), "path": None}, None, {"bytes": wav(seed=1), "path": "y.wav"}]
    parquet(tmp_path / "data/train-00000-of-00002.parquet", table(first))
    parquet(tmp_path / "data/train-00001-of-00002.parquet", table(second, key=pa.array(["a", "b", "c"])))
    put(tmp_path / "data", a__wav=wav(seed=2))
    config = DatasetConfig(format="parquet", path=str(tmp_path / "data/train-*.parquet"), columns=COLUMNS)
    result = read_all(config)
    assert [question.id for question in result.questions] == ["0", "1", "a", "b", "c"]
    (empty,) = result.skipped
    assert (empty.source, empty.row, empty.field) == (str(tmp_path / "data/train-00000-of-00002.parquet"), 3, "clip")
    held, named, of_video, silent, again = result.questions
    assert held.source == f"{tmp_path}/data/train-00000-of-00002.parquet row 1"
    assert again.source == f"{tmp_path}/data/train-00001-of-00002.parquet row 3"
    assert named.audio[0].path == str(tmp_path / "data/a.wav")
    assert silent.audio == ()
    assert held.audio == again.audio, "equal clips are one file"
    assert len([path for path in cache.rglob("*") if path.is_file()]) == 2
    expected = np.round(noise(0.5, seed=1) * 2**15) / 2**15
    np.testing.assert_allclose(load_waveform(held.audio[0], max_audio_s=30), expected, atol=2**-15)
    assert len(load_waveform(of_video.audio[0], max_audio_s=30)) >= 16_000
    config.path = str(tmp_path / "data")
    assert read_all(config).questions == result.questions
    config.path = str(tmp_path / "data/train-00001-of-00002.parquet")
    assert [question.id for question in read_all(config).questions] == ["a", "b", "c"]


def test_columns_of_parquet_become_metadata_as_json_holds_them(tmp_path, cache):
    further = {
        "level": pa.array([3]),
        "tags": pa.array([["x", None]]),
        "where": pa.array([{"url": "…", "at": datetime.datetime(2026, 1, 2, 3, 4)}]),
        "price": pa.array([decimal.Decimal("1.50")]),
        "shade": pa.array(["red"]).dictionary_encode(),
        "none": pa.nulls(1),
        "picture": pa.array([{"bytes": b"png", "path": "x.png"}], CLIP),
        "video": pa.array([b"mp4"]),
    }
    file = parquet(tmp_path / "rows.parquet", table([None], **further))
    result = read_all(DatasetConfig(format="parquet", path=str(file), columns=COLUMNS))
    assert result.questions[0].metadata == {
        "level": 3,
        "tags": ["x", None],
        "where": {"url": "…", "at": "2026-01-02T03:04:00"},
        "price": "1.50",
        "shade": "red",
        "none": None,
    }
    json.dumps(result.questions[0].metadata)
    assert result.notes == (f"{file}: left out of metadata, because they hold bytes: picture, video",)


def test_a_clip_that_a_row_of_parquet_names_stays_inside_of_the_folder(tmp_path, cache):
    put(tmp_path, secret__wav=wav())
    clips = [{"bytes": None, "path": "../secret.wav"}, {"bytes": None, "path": str(tmp_path / "secret.wav")}]
    file = parquet(tmp_path / "data/rows.parquet", table(clips))
    result = read_all(DatasetConfig(format="parquet", path=str(file), columns=COLUMNS))
    assert not result.questions
    assert all("leads outside of" in row.reason for row in result.skipped)


def test_nor_does_one_that_a_hugging_face_data_set_names(tmp_path, cache, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    put(tmp_path, secret__wav=wav())
    put(tmp_path / "data", a__wav=wav())
    names = ["../secret.wav", str(tmp_path / "secret.wav"), "/etc/passwd", "a.wav", str(tmp_path / "data/a.wav")]
    features = Features({"clip": Audio(), "prompt": Value("string"), "label": Value("string")})
    rows = pa.table(
        {
            "clip": pa.array([{"bytes": None, "path": name} for name in names], CLIP),
            "prompt": ["Which?"] * 5,
            "label": ["cat"] * 5,
        }
    )
    parquet(tmp_path / "data/train.parquet", rows.cast(features.arrow_schema))
    columns = ColumnsConfig(id="", question="prompt", answer="label", audio="clip")
    result = read_all(DatasetConfig(format="huggingface", path=str(tmp_path / "data"), columns=columns))
    assert [row.row for row in result.skipped] == [1, 2, 3]
    assert all("leads outside of" in row.reason for row in result.skipped)
    assert [question.audio[0].path for question in result.questions] == [str(tmp_path / "data/a.wav")] * 2


def test_a_folder_that_cannot_keep_clips_is_named_with_its_setting(tmp_path):
    (tmp_path / "kept").write_text("a file")
    file = parquet(tmp_path / "rows.parquet", table([{"bytes": wav(), "path": None}]))
    config = DatasetConfig(format="parquet", path=str(file), columns=COLUMNS, clip_cache_dir=str(tmp_path / "kept"))
    with pytest.raises(UserError, match=r"cannot be kept in .*kept: .*set the data set's clip_cache_dir"):
        read_all(config)


def test_a_kept_clip_of_another_size_is_written_again(tmp_path, cache):
    file = parquet(tmp_path / "rows.parquet", table([{"bytes": wav(), "path": None}]))
    config = DatasetConfig(format="parquet", path=str(file), columns=COLUMNS)
    (kept,) = read_all(config).questions[0].audio
    with open(kept.path, "wb") as clip:
        clip.write(b"RIFF")
    read_all(config)
    with open(kept.path, "rb") as clip:
        assert clip.read() == wav()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PAR1 cut", "cannot be read as Parquet"),
        (b'{"id": 1}', "cannot be read as Parquet .*set the data set's format right"),
        (b"", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_parquet_is_named(tmp_path, content, said):
    (tmp_path / "rows.parquet").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_all(DatasetConfig(format="parquet", path=str(tmp_path / "rows.parquet")))


def test_two_columns_of_one_name_are_refused(tmp_path):
    rows = pa.table([pa.array([1]), pa.array([2])], names=["id", "id"])
    with pytest.raises(UserError, match="two columns are named 'id'"):
        read_all(DatasetConfig(format="parquet", path=str(parquet(tmp_path / "rows.parquet", rows))))


@pytest.fixture
def saved(tmp_path, cache):
    """A data set as `save_to_disk` writes it, with what would need torchcodec and Pillow to be decoded."""
    features = Features(
        {
            "clip": Audio(),
            "more": List(Audio()),
            "prompt": Value("string"),
            "label": ClassLabel(names=["dog", "cat", "hen"]),
            "tags": List(ClassLabel(names=["loud", "quiet"])),
            "picture": Image(),
            "at": Value("timestamp[s]"),
        }
    )
    clip = {"bytes": wav(seed=3), "path": "x.wav"}
    rows = {
        "clip": [clip, {"bytes": None, "path": "a.wav"}, clip],
        "more": [[clip, clip], [], None],
        "prompt": ["Which?", "What?", "Who?"],
        "label": [1, 0, 2],
        "tags": [[0, 1], [], None],
        "picture": [{"bytes": b"png", "path": None}] * 3,
        "at": [0, 1, 2],
    }
    datasets.disable_progress_bars()
    split = Dataset.from_dict(rows).cast(features)
    folder = tmp_path / "saved"
    # The second clip is only named; save_to_disk would look for it to put its bytes into the file.
    put(tmp_path, a__wav=wav(seed=4))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        DatasetDict({"train": split, "test": split.select([0])}).save_to_disk(folder)
    columns = ColumnsConfig(id="", question="prompt", answer="label", audio="clip")
    return DatasetConfig(format="huggingface", path=str(folder), split="train", columns=columns)


def test_a_hugging_face_data_set_on_disk(saved):
    result = read_all(saved)
    assert not result.skipped
    first, second, third = result.questions
    assert [q.ground_truth for q in result.questions] == ["cat", "dog", "hen"], "class labels are text"
    assert [q.id for q in result.questions] == ["1", "2", "3"]
    assert first.audio == third.audio != second.audio
    expected = np.round(noise(0.5, seed=3) * 2**15) / 2**15
    np.testing.assert_allclose(load_waveform(first.audio[0], max_audio_s=30), expected, atol=2**-15)
    assert first.metadata == {"tags": ["loud", "quiet"], "at": "1970-01-01T00:00:00"}
    assert result.notes == (f"{saved.path}: left out of metadata, because they hold bytes: more, picture",)
    saved.columns.audio = "more"
    assert [len(question.audio) for question in read_all(saved).questions] == [2, 0, 0]
    saved.choices_from_answers, saved.max_questions = True, 2
    saved.skip_questions = 1
    assert [q.choices for q in read_all(saved).questions] == [("cat", "dog", "hen")] * 2
    assert [q.id for q in read_all(saved).questions] == ["2", "3"]


def test_a_split_that_is_not_there_is_named(saved):
    saved.split = "dev"
    with pytest.raises(UserError, match=r"it has no split 'dev'; set the data set's split to one of train, test"):
        read_all(saved)
    saved.split = ""
    with pytest.raises(UserError, match=r"it has several splits; set the data set's split to one of train, test"):
        read_all(saved)


def test_one_split_needs_no_name(saved):
    saved.path, saved.split = f"{saved.path}/test", ""
    assert len(read_all(saved).questions) == 1


def test_a_folder_of_data_files_as_on_the_hub(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    folder = tmp_path / "repository"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        datasets.load_from_disk(saved.path)["train"].to_parquet(folder / "train-00000-of-00001.parquet")
    expected = read_all(saved).questions
    saved.path = str(folder)
    found = read_all(saved).questions
    assert [(q.text, q.ground_truth, q.audio) for q in found] == [(q.text, q.ground_truth, q.audio) for q in expected]
    saved.split = "tes"
    with pytest.raises(UserError, match=r"cannot be loaded: Unknown split \"tes\". Should be one of \['train'\]"):
        read_all(saved)
    saved.format, saved.split = "parquet", ""
    found = read_all(saved).questions
    assert [q.ground_truth for q in found] == ["cat", "dog", "hen"], "Parquet keeps the names of class labels too"


def test_what_is_neither_here_nor_in_the_cache_of_the_hub_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = DatasetConfig(format="huggingface", path="nobody/nothing-here")
    with pytest.raises(
        UserError, match=r"because HF_HUB_OFFLINE is set; fetch it .*hf download --repo-type dataset nob"
    ):
        read_all(config)


@pytest.mark.parametrize("path", ["/nowhere/data", "./data", "a/b/c"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(path):
    with pytest.raises(MissingFile, match=r"data\.train\.path .* is not a file"):
        read_splits(DataConfig(train=DatasetConfig(format="huggingface", path=path)))


def test_a_folder_of_sound_files_says_what_to_do_without_torchcodec(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    put(tmp_path / "data", x__wav=wav(), metadata__csv=b"file_name,prompt\nx.wav,Which?\n")
    config = DatasetConfig(format="huggingface", path=str(tmp_path / "data"))
    with pytest.raises(UserError, match=r"format=jsonl and columns=\{audio: file_name\}"):
        read_all(config)


def test_json_readers_name_the_format_of_folders_of_tables(saved, tmp_path):
    with pytest.raises(UserError, match="set the data set's format to huggingface"):
        read_all(DatasetConfig(format="jsonl", path=saved.path))
    parquet(tmp_path / "tables/rows.parquet", table([None]))
    with pytest.raises(UserError, match="set the data set's format to parquet"):
        read_all(DatasetConfig(format="jsonl", path=str(tmp_path / "tables")))
