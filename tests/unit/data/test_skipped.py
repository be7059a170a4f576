"""Questions that cannot be used are counted once and listed once, whatever happens between."""

import json

import pytest

from ssr1_rl.data.audio import AudioError
from ssr1_rl.data.skipped import SkipList, TooManyUnusable
from ssr1_rl.files import SetAside
from ssr1_rl.types import Question

ERROR = AudioError("no sound")


def question(id, source="train.json row 1"):
    return Question(id, "?", "yes", source=source)


@pytest.fixture
def make(tmp_path):
    return lambda share=0.5, num=1000: SkipList(tmp_path / "skipped.jsonl", share, num)


def listed(tmp_path):
    return [json.loads(line)["question_id"] for line in (tmp_path / "skipped.jsonl").read_text().splitlines() if line]


def test_counts_and_list_go_on_after_a_resume(make, tmp_path):
    skips = make()
    for id in "aab":
        skips.skipped(question(id), ERROR)
    skips.used(question("c"))
    state = json.loads(json.dumps(skips.state_dict()))
    skips.skipped(question("d"), ERROR)  # after the checkpoint
    resumed = make()
    resumed.load_state_dict(state)
    assert resumed.num_skipped == 2
    for id in "abd":
        resumed.skipped(question(id), ERROR)
    assert resumed.num_skipped == 3
    assert listed(tmp_path) == ["a", "b", "d"], "nothing grows again"


def test_the_share_is_that_of_the_whole_run(make):
    skips = make(share=0.02, num=100)
    for number in range(98):
        skips.used(question(str(number)))
    skips.skipped(question("98"), ERROR)
    resumed = make(share=0.02, num=100)
    resumed.load_state_dict(skips.state_dict())
    resumed.skipped(question("99"), ERROR)
    with pytest.raises(TooManyUnusable, match="3 of the first 101 questions"):
        resumed.skipped(question("100"), ERROR)


def test_a_question_that_can_be_used_again_is_forgiven(make):
    skips = make()
    skips.skipped(question("a"), ERROR)
    skips.used(question("a"))
    assert skips.num_skipped == 0


def test_moved_data_is_the_same_data(make):
    skips = make()
    skips.skipped(question("a", "old/train.json row 1"), ERROR)
    skips.skipped(question("a", "new/train.json row 1"), ERROR)
    assert skips.num_skipped == 1


@pytest.mark.parametrize("left", [b'{"question_id": "x", "sou', b"\xff\n", b"[]\n", b"\n"])
def test_a_torn_line_hinders_nothing(make, tmp_path, left):
    (tmp_path / "skipped.jsonl").write_bytes(left)
    make().skipped(question("a"), ERROR)
    make().skipped(question("a"), ERROR)
    assert (tmp_path / "skipped.jsonl").read_bytes().startswith(left)
    last = (tmp_path / "skipped.jsonl").read_bytes().splitlines()
    assert sum(b'"question_id": "a"' in line for line in last) == 1
    assert json.loads(last[-1])["question_id"] == "a"


def test_a_lone_surrogate_in_an_id_is_listed(make, tmp_path):
    make().skipped(question("\ud83d"), ERROR)
    make().skipped(question("\ud83d"), ERROR)
    assert len((tmp_path / "skipped.jsonl").read_bytes().splitlines()) == 1


def test_another_run_s_list_is_set_aside(make, tmp_path):
    make().skipped(question("a"), ERROR)
    skips, aside = make(), SetAside(tmp_path, 0)
    skips.set_aside(aside)
    assert not (tmp_path / "skipped.jsonl").exists()
    skips.skipped(question("a"), ERROR)
    assert listed(tmp_path) == ["a"]
    assert listed(aside.folder) == ["a"]
