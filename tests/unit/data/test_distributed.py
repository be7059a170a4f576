"""Each data set as it is distributed, with the traps of the real files."""

import json

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.music_avqa import filled_in
from ssr1_rl.data.read import read_all
from ssr1_rl.data.row_error import RowError
from ssr1_rl.errors import UserError
from tests.unit.data import distributed


def skipped(result):
    return {row.row: (row.field, row.reason) for row in result.skipped}


@pytest.fixture
def avqa(tmp_path):
    questions, clips = distributed.avqa(tmp_path)
    return DatasetConfig(format="avqa", path=str(questions), audio_dir=str(clips))


def test_avqa(avqa):
    result = read_all(avqa)
    own, shortened, of_video, numbers, mixed = result.questions
    assert own.audio[0].path.endswith("-HG3Omg_89c_000030.wav") and own.ground_truth == "motorboat"
    assert own.metadata == {
        "video_name": "-HG3Omg_89c_000030",
        "video_id": 483,
        "question_relation": "View",
    }
    assert shortened.audio[0].path.endswith("_y_1_3.wav"), "R1-AQA's name"
    assert of_video.choices == ("Wake people up", "Call the police", "Open doors") and of_video.kind == "Used For"
    assert of_video.audio[0].path.endswith("0Xa2_TsVyzA_000110.mp4")
    assert len(load_waveform(of_video.audio[0], max_audio_s=30)) >= 16_000, "the sound of the video itself"
    assert (numbers.choices, numbers.ground_truth) == (("2", "3", "0", "1"), "3"), "the answer is an index"
    assert mixed.choices == ("hunger", "7", "fear", "play"), "a choice may be a number"
    wrong = skipped(result)
    assert {row: field for row, (field, _) in wrong.items()} == {
        5: "multi_choice",
        7: "multi_choice",
        8: "answer",
        9: "video_name",
        10: "video_name",
        11: "video_name",
    }
    assert "no clip named gone_000010 or gone_10" in wrong[9][1]
    assert "leads outside of" in wrong[10][1] and "leads outside of" in wrong[11][1]


def test_mmau(tmp_path):
    result = read_all(DatasetConfig(format="mmau", path=str(distributed.mmau(tmp_path))))
    assert [len(question.choices) for question in result.questions] == [4, 2, 8, 4]
    assert [question.ground_truth for question in result.questions] == ["Man", "No", "C#", "Rain"]
    assert [question.kind for question in result.questions] == ["speech", "music", "music", "sound"]
    assert result.questions[1].metadata["category"] == ["Reasoning", "Information Extraction"]
    assert result.questions[2].metadata["difficulty"] == "hard"
    assert result.questions[3].choices == ("Rain", "Hail", "Rain", "Leaves")
    wrong = skipped(result)
    assert "'Five' is not one of the choices" in wrong[5][1]
    assert wrong[6][0] == "audio_id" and "'/etc/hostname' leads outside of" in wrong[6][1]


@pytest.fixture
def music(tmp_path):
    questions, clips = distributed.music_avqa(tmp_path)
    return DatasetConfig(format="music_avqa", path=str(questions), audio_dir=str(clips))


def test_music_avqa(music):
    result = read_all(music)
    assert [(q.id, q.text, q.ground_truth, q.kind) for q in result.questions] == [
        ("1", "How many musical instruments were heard throughout the video?", "two", "Audio Counting"),
        ("2", "Is the accordion more rhythmic than the electric_bass?", "yes", "Audio Comparative"),
        ("50", "Where is the first sounding instrument?", "left", "Audio-Visual Temporal"),
        ("51", "What is the left instrument of the pipa?", "erhu", "Audio-Visual Location"),
        ("28884", "Are there piano and ukulele instruments in the video?", "no", "Visual Counting"),
        ("3", "How many sounding violin in the video?", "one", "Audio Counting"),
    ]
    assert all(question.choices == () for question in result.questions)
    assert [q.audio[0].path.rpartition("/")[2] for q in result.questions[2:5]] == [
        "00000272.mp4",
        "00000272.mp4",
        "sa00007434.m4a",
    ]
    assert result.questions[1].metadata == {
        "video_id": "00000093",
        "question_deleted": 0,
        "template": "Is the <Object> more rhythmic than the <Object>?",
    }
    wrong = skipped(result)
    assert "needs 2 values, got ['pipa']" in wrong[7][1]
    assert 8 not in wrong and result.notes == (f"{music.path}: 1 questions that their authors withdrew are left out",)
    assert "expected a list of texts, or a text that holds one, got 'Audio'" in wrong[9][1]
    assert "rename 'answer' to 'anser'" in wrong[10][1]
    assert "no clip named 99999999" in wrong[11][1]


def test_music_avqa_s_update(music):
    music.path = music.path.replace("test.json", "test_update.json")
    result = read_all(music)
    assert not result.skipped
    assert result.questions[1].text == "Is the accordion more rhythmic than the electric_bass?"


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("Is the <Object>, or the <Object>, louder?", ["pipa", "erhu"], "Is the pipa, or the erhu, louder?"),
        ("Which <Object>?", ["pipa"], "Which pipa?"),
        ("Is it <A>/<B>?", ["one", "two"], "Is it one?"),
        ("Is the <FL instrument?", ["first"], "Is the first instrument?"),
        ("Is it so?", ["unused"], "Is it so?"),
        ("Is the <Object>?", [r"\1<Object>"], r"Is the \1<Object>?"),
    ],
)
def test_each_word_with_a_placeholder_takes_the_next_value(template, values, text):
    assert filled_in(template, values) == text


def test_too_few_values_are_refused():
    with pytest.raises(RowError, match="needs 1 values, got"):
        filled_in("Which <Object>?", [])


def test_only_the_wanted_kinds_are_read(music):
    music.kinds = ["Audio Counting", "Audio Comparative"]
    result = read_all(music)
    assert [question.id for question in result.questions] == ["1", "2", "3"]
    assert [row.row for row in result.skipped] == [7, 9, 10, 11], "rows of other kinds are not looked at further"
    music.kinds = ["Audio Counting", "Audio"]
    with pytest.raises(UserError, match=r"no usable row is of the kind 'Audio', .*its rows are of \['Audio Comp"):
        read_all(music)


def test_open_questions_get_the_answers_to_their_kind_as_choices(music):
    music.choices_from_answers = True
    result = read_all(music)
    by_id = {question.id: question for question in result.questions}
    assert by_id["1"].choices == by_id["3"].choices == ("one", "two")
    assert by_id["3"].ground_truth == "one"
    assert by_id["50"].choices == ()
    assert any(
        "stay open, because they all have one answer: Audio Comparative, Audio-Visual Temp" in note
        for note in result.notes
    )
    music.max_questions = 1
    (first,) = read_all(music).questions
    assert first.choices == ("one", "two"), "the choices do not depend on how many questions are read"


def test_choices_from_answers_know_one_answer_in_two_spellings(tmp_path):
    path = tmp_path / "rows.jsonl"
    answers = ["Yes", "no", "yes ", "dog"]
    rows = [{"id": i, "question": "?", "answer": answer, "kind": "a"} for i, answer in enumerate(answers)]
    rows.append({"id": 9, "question": "?", "answer": "B", "choices": ["sun", "rain"], "kind": "a"})
    path.write_text("\n".join(map(json.dumps, rows)))
    questions = read_all(DatasetConfig(format="jsonl", path=str(path), choices_from_answers=True)).questions
    assert [question.choices for question in questions] == [("Yes", "dog", "no")] * 4 + [("sun", "rain")]
    assert [question.ground_truth for question in questions] == ["Yes", "no", "Yes", "dog", "rain"]
