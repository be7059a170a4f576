"""What a row's answer, choices and keys may be: everything that can be read in one way only."""

import json
import pickle
import re

import pytest

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.data.choices import choice_labels, without_labels
from ssr1_rl.data.jsonl import read_jsonl
from ssr1_rl.data.mmau import read_mmau
from ssr1_rl.data.read import read_questions
from ssr1_rl.rewards.actor import RewardActor
from ssr1_rl.rewards.load import read_source
from ssr1_rl.types import Completion, GroupId, Question, RolloutGroup

ROW = {"id": 1, "question": "Which?", "choices": ["cat", "dog", "bird"], "answer": "cat"}
OPEN = {"id": 1, "question": "How many?", "answer": "two"}


@pytest.fixture
def read_row(tmp_path):
    """Reads one row as JSON lines: its question, or the reason why there is none."""

    def read(row):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        for name in ("a.wav", "b.wav"):
            (tmp_path / name).touch()
        result = read_jsonl(DatasetConfig(format="jsonl", path=str(path)))
        return result.questions[0] if result.questions else str(result.skipped[0])

    return read


@pytest.mark.parametrize(
    ("answer", "choices", "right"),
    [
        ("Cat", ["cat", "dog"], "cat"),
        (" cat ", ["cat", "dog"], "cat"),
        ("hot   dog", ["cat", "Hot dog"], "Hot dog"),
        ("B", ["cat", "dog"], "dog"),
        ("b", ["cat", "dog"], "dog"),
        ("(b)", ["cat", "dog"], "dog"),
        ("b)", ["cat", "dog"], "dog"),
        ("B.", ["cat", "dog"], "dog"),
        ("(B) dog", ["cat", "dog"], "dog"),
        ("B: Dog", ["cat", "dog"], "dog"),
        ("B", ["B", "A"], "B"),
        ("a", ["B", "A"], "A"),
        ("a dog", ["a cat", "a dog"], "a dog"),
        ("2", ["1", "2", "3"], "2"),
        (1, ["cat", "dog"], "dog"),
        (1.0, ["cat", "dog"], "dog"),
        (10, ["5", "10"], "10"),
        (2, ["0", "1", "2"], "2"),
        (True, ["no", "Yes"], "Yes"),
        (False, ["true", "false"], "false"),
        ("dog", ["dog", "cat", "dog"], "dog"),
        ("A", ["dog", "cat", "dog"], "dog"),
    ],
)
def test_an_answer_that_names_one_choice_is_read(read_row, answer, choices, right):
    assert read_row(ROW | {"choices": choices, "answer": answer}).ground_truth == right


@pytest.mark.parametrize(
    ("answer", "choices", "said"),
    [
        ("(A) dog", ["cat", "dog"], r"names 'cat' by its letter and 'dog' by its text"),
        ("1", ["cat", "dog"], r"'1' may be 'dog or cat', counted from 0 or from 1"),
        (1, ["1", "2"], r"1 is the text of a choice, and the 0-based index of another, '2'"),
        (1.0, ["1.0", "2.0"], r"1.0 is the text of a choice, and the 0-based index of another, '2.0'"),
        (1, ["1.00", "2"], r"1.00 is the text of a choice, and the 0-based index of another, '2'"),
        (0.0, ["dog", "0.0"], r"0.0 is the text of a choice, and the 0-based index of another, 'dog'"),
        ("B", ["A", "C"], "'B' is not one of the choices"),
        ("E", ["cat", "dog"], "'E' is not one of the choices"),
        (True, ["cat", "dog"], "True names none"),
        (True, ["yes", "true"], "True names none, or several"),
        (2, ["cat", "dog"], "index 2 is out of range"),
        (None, ["cat", "dog"], "expected the text, the letter or the 0-based index of a choice, got None"),
        (["cat"], ["cat", "dog"], "expected the text, the letter"),
        (0.5, ["cat", "dog"], "expected the text, the letter"),
    ],
)
def test_an_answer_that_names_none_or_two_choices_is_refused(read_row, answer, choices, said):
    assert re.search(said, read_row(ROW | {"choices": choices, "answer": answer}))


@pytest.mark.parametrize(("answer", "text"), [(3, "3"), (2.5, "2.5"), (-1, "-1"), ("B", "B"), (" two ", "two")])
def test_an_open_question_has_a_text_or_a_number_as_its_answer(read_row, answer, text):
    question = read_row(OPEN | {"answer": answer})
    assert (question.ground_truth, question.choices) == (text, ())
    assert read_row(OPEN | {"answer": answer, "choices": []}) == question


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (True, 'may mean "yes" or "true"'),
        (False, 'may mean "no" or "false"'),
        ([], "expected a text or a number"),
        (1e300, "write it as a text"),
        ("  ", "empty"),
    ],
)
def test_the_answer_of_an_open_question_is_not_guessed(read_row, answer, said):
    assert said in read_row(OPEN | {"answer": answer})


@pytest.mark.parametrize(
    ("written", "stripped"),
    [
        (["A. dog", "B. cat"], ["dog", "cat"]),
        (["(A) dog", "(B) cat"], ["dog", "cat"]),
        (["(a)dog", "(b)cat"], ["dog", "cat"]),
        (["A) dog", "B) cat", "C) hen"], ["dog", "cat", "hen"]),
        (["A: dog", "B: cat"], ["dog", "cat"]),
        (["A. dog", "cat"], None),
        (["A. dog", "C. cat"], None),
        (["B. dog", "A. cat"], None),
        (["A. dog", "(B) cat"], None),
        (["A. dog", "b. cat"], None),
        (["A.", "B."], None),
        (["A minor", "B minor"], None),
        (["A.M.", "B.M."], None),
        (["A", "B"], None),
    ],
)
def test_letters_that_all_choices_carry_are_removed_once(written, stripped):
    assert without_labels(written) == tuple(stripped or written)


@pytest.mark.parametrize("answer", ["(B) cat", "cat", "B", "b)", 1, "(b) CAT"])
def test_the_answer_of_lettered_choices_has_no_letter_either(read_row, answer):
    question = read_row(ROW | {"choices": ["(A) dog", "(B) cat"], "answer": answer})
    assert (question.choices, question.ground_truth) == (("dog", "cat"), "cat")


def test_choices_may_be_numbers(read_row):
    question = read_row(ROW | {"choices": [10, 2.5, 30], "answer": "2.5"})
    assert (question.choices, question.ground_truth) == (("10", "2.5", "30"), "2.5")
    assert "choice 1 must be a text or a number, got True" in read_row(ROW | {"choices": ["yes", True]})
    assert read_row(ROW | {"choices": [10, 20, 30], "answer": 30}).ground_truth == "30"


def test_choices_beyond_the_alphabet_have_numbers():
    assert choice_labels(26)[-1] == "Z"
    assert choice_labels(27) == [str(number) for number in range(1, 28)]


LOOKALIKES = [
    ("audio", key, value)
    for key, value in [
        *(
            (key, "a.wav")
            for key in ("audio_path", "audio_id", "audio_file", "wav", "wav_path", "sound", "path", "Audio")
        ),
        ("audio ", "a.wav"),
        ("AudioPath", ["a.wav", "b.wav"]),
        ("audios", [{"path": "a.wav"}]),
        ("file_name", "clips/a.WAV"),
        ("video", "a.mp4"),
    ]
]
LOOKALIKES += [
    ("choices", key, ["x", "y"]) for key in ("options", "Choices", "multi_choice", "candidates", "option list")
]
LOOKALIKES += [
    ("question", key, "Which?") for key in ("question_text", "query", "prompt", "Question", "QUESTION", "instruction")
]
LOOKALIKES += [("answer", key, "cat") for key in ("label", "gt", "ground_truth", "groundTruth", "Answer", "solution")]
LOOKALIKES += [("id", key, 1) for key in ("uid", "question_id", "ID", "idx")]


@pytest.mark.parametrize(("field", "key", "value"), LOOKALIKES)
def test_a_key_that_looks_like_a_field_is_refused_with_the_right_name(read_row, field, key, value):
    row = {name: inner for name, inner in ROW.items() if name != field} | {key: value}
    error = read_row(row)
    assert isinstance(error, str)
    assert f": {field}: " in error and repr(key) in error and f"to {field!r}" in error


@pytest.mark.parametrize(("field", "key", "value"), LOOKALIKES)
def test_such_a_key_beside_the_right_one_is_metadata(read_row, field, key, value):
    question = read_row({"audio": "b.wav"} | ROW | {key: value})
    assert question.metadata == {key: value}
    assert question.audio[0].path.endswith("b.wav")


def test_a_choice_in_a_column_each_is_refused(read_row):
    error = read_row(OPEN | {"option_a": "one", "option_b": "two"})
    assert "'option_a' and 'option_b' but no 'choices'" in error


@pytest.mark.parametrize(
    "further",
    [
        {"sound": "a dog barks", "path": "lessons/3", "video_views": 7, "file": "x.csv", "clip": 3},
        {"audio_path": None, "options": [], "choices": None, "audio": None, "wav": ""},
        {"audio_seconds": 3.5, "options_note": "none", "a": 1},
        {"audio": [], "audio_path": "gone.wav"},
    ],
)
def test_other_columns_of_a_text_only_question_are_metadata(read_row, further):
    question = read_row(OPEN | further)
    assert question.audio == () and question.choices == ()
    assert question.metadata == {key: value for key, value in further.items() if key not in ("audio", "choices")}


FURTHER = {"level": 3, "tags": ["x", None, {"y": 1.5}], "source": {"url": "…"}, "note": None, "ok": True}


def test_every_further_column_is_metadata(read_row):
    question = read_row(ROW | FURTHER | {"kind": "animals", "audio": "a.wav"})
    assert question.metadata == FURTHER and question.kind == "animals"


LEVEL = """
def level(question, completions):
    return [question.metadata["level"] + question.metadata["source"]["url"].count("x")] * len(completions)
"""


def test_metadata_reaches_a_reward_function_in_its_actor(read_row, tmp_path):
    (tmp_path / "mine.py").write_text(LEVEL)
    actor = RewardActor(read_source(RewardConfig(path=f"{tmp_path}/mine.py:level")))
    question = read_row(ROW | FURTHER | {"source": {"url": "xx"}})
    group = RolloutGroup(GroupId(0, "1"), question, (Completion((1,), (0.0,), "cat", "stop"),))
    actor.load()
    assert actor.score(pickle.loads(pickle.dumps(group))) == (5.0,), "Ray pickles a group on its way to the actor"


MMAU = {
    "id": "ff88",
    "audio_id": "./test-mini-audios/ff88.wav",
    "question": "What is heard?",
    "choices": ["A dog", "Rain", "Rain", "Wind"],
    "answer": "Rain",
    "dataset": "x",
    "task": "sound",
    "split": "test-mini",
    "category": ["Reasoning"],
    "sub-category": "y",
    "difficulty": "hard",
}


def test_mmau_rows_with_a_repeated_choice(tmp_path):
    (tmp_path / "test-mini-audios").mkdir()
    (tmp_path / "test-mini-audios" / "ff88.wav").touch()
    path = tmp_path / "mmau.json"
    path.write_text(json.dumps([MMAU]))
    (question,) = read_mmau(DatasetConfig(format="mmau", path=str(path))).questions
    assert question.choices == ("A dog", "Rain", "Rain", "Wind") and question.ground_truth == "Rain"
    assert question.kind == "sound" and question.audio[0].path.endswith("test-mini-audios/ff88.wav")
    used = ("id", "question", "choices", "answer", "task")
    assert question.metadata == {key: value for key, value in MMAU.items() if key not in used}


def test_a_question_with_metadata_can_be_hashed():
    question = Question("1", "Which?", "cat", metadata={"tags": ["x"]})
    assert len({question, Question("1", "Which?", "cat", metadata={"tags": ["x"]})}) == 1


def test_all_rows_that_fail_for_one_reason_make_one_sentence(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": i, "question": f"Which {i}?", "answer": str(i), "audio_path": f"{i}.wav"} for i in range(991)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(ValueError, match="991 of 991 rows cannot be used for one reason, row 1 for example") as error:
        read_questions(DatasetConfig(format="jsonl", path=str(path)), 1.0)
    assert "\n" not in str(error.value)
    assert (
        "rename it to 'audio' (or set columns: {audio: audio_path}), or give an empty list if the question has none"
    ) in str(error.value)


@pytest.mark.parametrize(("answer", "right"), [(5, "5.0"), (5.0, "5.0"), (7.0, "7"), (-3, "-3.0")])
def test_a_number_that_is_the_text_of_one_choice_and_no_index_is_that_choice(read_row, answer, right):
    assert read_row(ROW | {"choices": ["5.0", "7", "-3.0"], "answer": answer}).ground_truth == right


@pytest.mark.parametrize("choices", [0, False, {}, "", 0.0])
def test_choices_that_are_no_list_are_refused_also_where_they_are_empty(read_row, choices):
    assert "expected a list of choices" in read_row(OPEN | {"answer": "cat", "choices": choices})
