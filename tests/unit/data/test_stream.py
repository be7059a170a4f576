"""The order of questions: seeded, whole epochs, resumable anywhere."""

import json
from itertools import islice

import pytest

from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.types import GroupId, Question


def questions(count, answer="yes"):
    return [Question(str(number), f"Question {number}?", answer) for number in range(count)]


def take(stream, count):
    return [group_id for group_id, _ in islice(stream, count)]


def test_an_epoch_has_every_question_once_and_the_next_another_order():
    ids = take(QuestionStream(questions(20), seed=0), 40)
    first, second = ids[:20], ids[20:]
    assert {group.epoch for group in first} == {0} and {group.epoch for group in second} == {1}
    assert {group.question_id for group in first} == {group.question_id for group in second}
    assert len({group.question_id for group in first}) == 20
    assert [group.question_id for group in first] != [group.question_id for group in second]


def test_order_depends_on_the_seed_and_not_on_the_order_of_rows():
    forward, backward = questions(20), questions(20)[::-1]
    assert take(QuestionStream(forward, seed=3), 50) == take(QuestionStream(backward, seed=3), 50)
    assert take(QuestionStream(forward, seed=3), 20) != take(QuestionStream(forward, seed=4), 20)


def test_order_is_pinned():
    """Checkpoints depend on the exact order: a change would reorder a resumed run."""
    order = [group.question_id for group in take(QuestionStream(questions(6), seed=0), 12)]
    assert "".join(order) == "054213542013"


def test_yields_the_question_of_its_id():
    for group_id, question in islice(QuestionStream(questions(5), seed=1), 12):
        assert group_id == GroupId(group_id.epoch, question.id, attempt=0)
    stream = QuestionStream(questions(5), seed=1)
    assert stream.question("3").text == "Question 3?"


@pytest.mark.parametrize("cut", [0, 1, 6, 7, 8, 13, 14, 15, 20])
def test_resume_goes_on_exactly(cut):
    whole = take(QuestionStream(questions(7), seed=5), 30)
    before = QuestionStream(questions(7), seed=5)
    assert take(before, cut) == whole[:cut]
    state = json.loads(json.dumps(before.state_dict()))
    after = QuestionStream(questions(7), seed=5)
    after.load_state_dict(state)
    assert take(after, 30 - cut) == whole[cut:]


@pytest.mark.parametrize("changed", [questions(8), questions(7, answer="no"), questions(6)])
def test_cursor_of_another_data_set_is_refused(changed):
    state = QuestionStream(questions(7), seed=0).state_dict()
    with pytest.raises(ValueError, match=r"training data changed since the checkpoint: 7 questions .* restore"):
        QuestionStream(changed, seed=0).load_state_dict(state)


def test_cursor_of_another_seed_is_refused():
    state = QuestionStream(questions(7), seed=0).state_dict()
    with pytest.raises(ValueError, match=r"run\.seed was 0 .* and is 1 now"):
        QuestionStream(questions(7), seed=1).load_state_dict(state)


def test_no_questions_and_repeated_ids_are_refused():
    with pytest.raises(ValueError, match="at least one question"):
        QuestionStream([], seed=0)
    with pytest.raises(ValueError, match="3 ids for 4 questions"):
        QuestionStream([*questions(3), questions(1)[0]], seed=0)
