"""AVQA JSON and JSON lines: good rows, every kind of bad row, bad files."""

import json
import re

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.avqa import read_avqa
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.read import read_all, read_questions
from ssr1_rl.errors import UserError

AVQA_ROW = {
    "id": 1,
    "video_name": "-HG3Omg_89c_000030",
    "video_id": 341,
    "question_text": "What happened in the video?",
    "multi_choice": ["motorboat", "yacht consignment", "sailboat set sail", "consignment car"],
    "answer": 0,
    "question_relation": "View",
    "question_type": "Happening",
}


class Folder:
    """Writes files of questions beside their clips."""

    def __init__(self, path):
        self.path = path
        self.clip("-HG3Omg_89c_000030.wav")

    def clip(self, name):
        (self.path / name).write_bytes(b"sound")

    def avqa(self, *rows, **settings):
        file = self.path / "train_qa.json"
        file.write_text(json.dumps(rows))
        return DatasetConfig(format="avqa", path=str(file), **settings)

    def jsonl(self, *lines, **settings):
        file = self.path / "rows.jsonl"
        file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
        return DatasetConfig(format="jsonl", path=str(file), **settings)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def without(row, field):
    return {key: value for key, value in row.items() if key != field}


def test_avqa_row(folder):
    config = folder.avqa(AVQA_ROW)
    result = read_avqa(config)
    assert result.skipped == []
    (question,) = result.questions
    assert question.id == "1"
    assert question.text == "What happened in the video?"
    assert question.ground_truth == "motorboat"
    assert question.choices == tuple(AVQA_ROW["multi_choice"])
    assert question.kind == "Happening"
    assert question.source == f"{config.path} row 1"
    assert question.audio[0].path == str(folder.path / "-HG3Omg_89c_000030.wav")
    assert question.metadata["question_relation"] == "View"


@pytest.mark.parametrize("name", ["-HG3Omg_89c_30.wav", "-HG3Omg_89c_30.mp4", "-HG3Omg_89c_000030.mp4"])
def test_avqa_file_name_layouts(folder, tmp_path, name):
    clips = tmp_path / "clips"
    clips.mkdir()
    (clips / name).touch()
    (question,) = read_avqa(folder.avqa(AVQA_ROW, audio_dir=str(clips))).questions
    assert question.audio[0].path == str(clips / name)


def test_avqa_prefers_sound_to_video(folder):
    folder.clip("-HG3Omg_89c_000030.mp4")
    (question,) = read_avqa(folder.avqa(AVQA_ROW)).questions
    assert question.audio[0].path.endswith(".wav")


BAD_AVQA_ROWS = [
    (without(AVQA_ROW, "id"), "id", "missing"),
    (AVQA_ROW | {"id": None}, "id", "None"),
    (AVQA_ROW | {"id": True}, "id", "True"),
    (without(AVQA_ROW, "video_name"), "video_name", "missing"),
    (AVQA_ROW | {"video_name": "gone_000010"}, "video_name", "no clip named gone_000010 or gone_10"),
    (without(AVQA_ROW, "question_text"), "question_text", "missing"),
    (AVQA_ROW | {"question_text": "  "}, "question_text", "empty"),
    (AVQA_ROW | {"question_text": 7}, "question_text", "got 7"),
    (without(AVQA_ROW, "multi_choice"), "multi_choice", "missing"),
    (AVQA_ROW | {"multi_choice": "motorboat"}, "multi_choice", "'motorboat'"),
    (AVQA_ROW | {"multi_choice": []}, "multi_choice", "at least 2"),
    (AVQA_ROW | {"multi_choice": ["motorboat"]}, "multi_choice", "at least 2"),
    (AVQA_ROW | {"multi_choice": ["motorboat", None]}, "multi_choice", "choice 1 .* None"),
    (AVQA_ROW | {"multi_choice": ["motorboat", True]}, "multi_choice", "choice 1 .* True"),
    (AVQA_ROW | {"multi_choice": ["motorboat", ""]}, "multi_choice", "choice 1 .* ''"),
    (AVQA_ROW | {"multi_choice": ["motorboat", "motorboat "]}, "multi_choice", "at least 2 different"),
    (without(AVQA_ROW, "answer"), "answer", "missing"),
    (AVQA_ROW | {"answer": 4}, "answer", "index 4 is out of range for 4 choices"),
    (AVQA_ROW | {"answer": -1}, "answer", "index -1 is out of range"),
    (AVQA_ROW | {"answer": "canoe"}, "answer", "'canoe' is not one of the choices"),
    (AVQA_ROW | {"answer": None}, "answer", "None"),
    (AVQA_ROW | {"answer": True}, "answer", "True"),
    ("not an object", "row", "not an object"),
    (None, "row", "None"),
]


@pytest.mark.parametrize(("row", "field", "reason"), BAD_AVQA_ROWS)
def test_bad_avqa_row_is_listed_and_the_next_one_read(folder, row, field, reason):
    config = folder.avqa(row, AVQA_ROW | {"id": 2})
    result = read_avqa(config)
    assert [question.id for question in result.questions] == ["2"]
    (skipped,) = result.skipped
    assert (skipped.source, skipped.row, skipped.field) == (config.path, 1, field)
    assert re.search(reason, skipped.reason)
    assert str(skipped).startswith(f"{config.path} row 1: {field}: ")


def test_repeated_id_keeps_the_first(folder):
    result = read_avqa(folder.avqa(AVQA_ROW, AVQA_ROW | {"id": 2}, AVQA_ROW))
    assert len(result.questions) == 2
    assert str(result.skipped[0]).endswith(
        "row 3: id: '1' was already used by row 1 for the same question; remove one of them"
    )


def test_max_questions(folder):
    rows = [AVQA_ROW | {"id": number} for number in range(5)]
    result = read_avqa(folder.avqa(AVQA_ROW | {"answer": 9}, *rows, max_questions=3))
    assert [question.id for question in result.questions] == ["0", "1", "2"]
    assert len(result.skipped) == 1


@pytest.mark.parametrize("choices_from_answers", [False, True])
def test_two_splits_of_a_file_share_no_row_and_lose_none(folder, choices_from_answers):
    bad = AVQA_ROW | {"answer": 9}
    good = [AVQA_ROW | {"id": number} for number in range(5)]
    rows = [bad, good[0], good[1], bad, good[2], bad, bad, good[3], good[4], bad]

    def read(**settings):
        result = read_all(folder.avqa(*rows, choices_from_answers=choices_from_answers, **settings))
        return [q.id for q in result.questions], [row.row for row in result.skipped]

    assert read() == (["0", "1", "2", "3", "4"], [1, 4, 6, 7, 10])
    assert read(max_questions=2) == (["0", "1"], [1])
    assert read(skip_questions=2) == (["2", "3", "4"], [4, 6, 7, 10])
    assert read(skip_questions=2, max_questions=1) == (["2"], [4])
    assert read(skip_questions=3, max_questions=9) == (["3", "4"], [6, 7, 10])


def test_skipping_every_question_is_refused(folder):
    with pytest.raises(UserError, match=r"train_qa\.json: .*skip_questions=2 leaves none of its 2 usable questions"):
        read_all(folder.avqa(AVQA_ROW, AVQA_ROW | {"id": 2}, skip_questions=2))
    result = read_all(folder.avqa(AVQA_ROW | {"answer": 9}, skip_questions=2))
    assert [row.row for row in result.skipped] == [1], "the row says what is wrong"


def test_a_held_out_question_cannot_come_again_under_its_id(folder):
    result = read_all(folder.avqa(AVQA_ROW, AVQA_ROW, AVQA_ROW | {"id": 2}, skip_questions=1))
    assert [q.id for q in result.questions] == ["2"]
    assert "already used by row 1 for the same question" in str(result.skipped[0])


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.json: cannot be read \(No such file"):
        read_avqa(DatasetConfig(path=str(tmp_path / "gone.json")))


def test_file_that_is_no_json(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('[\n {"id": 1,\n  "answer" 2}]')
    (skipped,) = read_avqa(DatasetConfig(path=str(path))).skipped
    assert str(skipped).startswith(f"{path} row 1: row: is not JSON at line 3 column 12 (Expecting ':' delimiter")


def test_file_that_is_no_array(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"questions": []}')
    with pytest.raises(ValueError, match=r"train\.json: is one JSON object .*write only the rows: jq '\.questions'"):
        read_avqa(DatasetConfig(path=str(path)))


def test_file_that_is_no_text(tmp_path):
    path = tmp_path / "train.json"
    path.write_bytes(b"[\xff\xfe]")
    with pytest.raises(ValueError, match="not UTF-8"):
        read_avqa(DatasetConfig(path=str(path)))


def test_missing_folder_of_clips(folder):
    with pytest.raises(ValueError, match=r"nowhere: no such folder of clips; fix the data set's audio_dir"):
        read_avqa(folder.avqa(AVQA_ROW, audio_dir=str(folder.path / "nowhere")))


def test_jsonl_rows(folder):
    folder.clip("a.wav")
    folder.clip("b.wav")
    config = folder.jsonl(
        {"id": 1, "question": "Capital of France?", "answer": "Paris"},
        "",
        {"id": "two", "question": "Which?", "choices": ["cat", "dog"], "answer": 1, "audio": "a.wav", "kind": "animal"},
        {"id": 3, "question": "Same\u2028?", "choices": ["yes", "no"], "answer": "no", "audio": ["a.wav", "b.wav"]},
    )
    result = read_jsonl(config)
    assert result.skipped == []
    text_only, one_clip, two_clips = result.questions
    assert text_only.audio == () and text_only.choices == () and text_only.ground_truth == "Paris"
    assert (one_clip.id, one_clip.ground_truth, one_clip.kind) == ("two", "dog", "animal")
    assert one_clip.audio[0].path == str(folder.path / "a.wav")
    assert one_clip.source == f"{config.path} row 3"
    assert two_clips.ground_truth == "no" and len(two_clips.audio) == 2


GOOD_LINE = {"id": 9, "question": "Which?", "choices": ["cat", "dog"], "answer": "cat"}

BAD_LINES = [
    ('{"id": 1, ', "line", "not JSON at column"),
    ("[1]", "row", r"expected an object, got \[1\]"),
    (without(GOOD_LINE, "id") | {"x": 1}, "id", "missing"),
    (without(GOOD_LINE, "question"), "question", "missing"),
    (without(GOOD_LINE, "answer"), "answer", "missing"),
    (GOOD_LINE | {"answer": "bird"}, "answer", "'bird' is not one of the choices"),
    (GOOD_LINE | {"answer": 2}, "answer", "out of range"),
    (without(GOOD_LINE, "choices") | {"answer": None}, "answer", "expected a text or a number, got None"),
    (GOOD_LINE | {"choices": ["cat"]}, "choices", "at least 2"),
    (GOOD_LINE | {"audio": "gone.wav"}, "audio", "no such file: .*gone.wav"),
    (GOOD_LINE | {"audio": [3]}, "audio", "got 3"),
]


@pytest.mark.parametrize(("line", "field", "reason"), BAD_LINES)
def test_bad_line_is_listed_and_the_next_one_read(folder, line, field, reason):
    config = folder.jsonl(line, GOOD_LINE)
    result = read_jsonl(config)
    assert [question.id for question in result.questions] == ["9"]
    (skipped,) = result.skipped
    assert (skipped.source, skipped.row, skipped.field) == (config.path, 1, field)
    assert re.search(reason, skipped.reason)


def test_share_of_skipped_rows(folder):
    good = [AVQA_ROW | {"id": number} for number in range(90)]
    bad = [AVQA_ROW | {"id": number, "answer": 7} for number in range(90, 100)]
    config = folder.avqa(*good, *bad)
    result = read_questions(config, max_skipped_share=0.1)
    assert (len(result.questions), len(result.skipped)) == (90, 10)
    with pytest.raises(ValueError, match=r"10 of 100 rows cannot be used, more than .*=0\.09") as error:
        read_questions(config, max_skipped_share=0.09)
    assert f"{config.path} row 91: answer: index 7 is out of range for 4 choices" in str(error.value)
    assert "and 5 more" in str(error.value)


def test_a_file_without_one_good_row_is_refused(folder):
    with pytest.raises(ValueError, match=r"train_qa\.json: the file holds no rows"):
        read_questions(folder.avqa(), max_skipped_share=1.0)
    with pytest.raises(ValueError, match="1 of 1 rows cannot be used"):
        read_questions(folder.avqa({}), max_skipped_share=1.0)


def test_read_questions_dispatches(folder):
    assert len(read_questions(folder.jsonl(GOOD_LINE), 0.0).questions) == 1
    with pytest.raises(ValueError, match="unknown data format 'csv'"):
        read_questions(DatasetConfig(format="csv", path="x"), 0.0)
