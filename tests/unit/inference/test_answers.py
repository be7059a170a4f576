"""The resumable store of answers, with a backend that needs no model."""

import io
import json
import os
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from ssr1_rl.errors import Interrupted, UserError
from ssr1_rl.inference import store
from ssr1_rl.inference.answers import TooManyFailed, answer_all
from ssr1_rl.inference.request import Answer, Request
from ssr1_rl.inference.store import Answers

FINGERPRINT = {"model": "m", "sampling": {"temperature": 1.0}}


class Echo:
    """Answers each row with its text, `size` rows at a time; `on_batch` is called before each batch."""

    def __init__(self, size=2, bad=(), on_batch=lambda number: None):
        self.asked, self.closed, self._size, self._bad, self._on_batch = [], False, size, set(bad), on_batch

    def answers(self, rows, to_request):
        try:
            for start in range(0, len(rows), self._size):
                self._on_batch(start // self._size)
                batch = rows[start : start + self._size]
                self.asked += [row["key"] for row in batch]
                yield [self._answer(row, to_request) for row in reversed(batch)]
        finally:
            self.closed = True

    def _answer(self, row, to_request):
        if row["key"] in self._bad:
            return Answer(row["key"], error=f"broken clip {row['key']}")
        to_request(row)
        return Answer(row["key"], f"text of {row['text']}", 5, 3, "stop", {7: -0.5, 9: float("-inf")})


def rows(number):
    return [{"key": f"q{i}#0", "text": f"question {i}"} for i in range(number)]


def answer(folder, rows, backend, fingerprint=FINGERPRINT, share=0.1, says=None) -> Answers:
    console = Console(file=says or io.StringIO(), width=500)
    return answer_all(
        folder,
        rows,
        lambda row: Request(),
        backend,
        title="test",
        max_failed_share=share,
        fingerprint=fingerprint,
        console=console,
    )


class Killed(BaseException):
    """Ends the process as far as the code under test can tell."""


def kill_at(batch):
    def on_batch(number):
        if number == batch:
            raise Killed

    return on_batch


def test_every_row_has_its_answer_in_the_order_of_the_rows(tmp_path):
    found = answer(tmp_path, rows(5), Echo())
    assert list(found) == [f"q{i}#0" for i in range(5)]
    assert found["q3#0"] == Answer("q3#0", "text of question 3", 5, 3, "stop", {7: -0.5, 9: float("-inf")})
    assert found.failed == {}
    assert "q9#0" not in found


def test_a_kill_loses_only_what_was_in_flight_and_nothing_is_asked_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 3)
    backends = [Echo(on_batch=kill_at(2)), Echo(on_batch=kill_at(1)), Echo()]
    for backend in backends[:2]:
        with pytest.raises(Killed):
            answer(tmp_path, rows(11), backend)
        assert backend.closed
    found = answer(tmp_path, rows(11), backends[2])
    # The first stored two batches of two before it was killed in the third, the second one batch.
    assert [len(backend.asked) for backend in backends] == [4, 2, 5]
    assert sorted(key for backend in backends for key in backend.asked) == sorted(found)
    assert {key: found[key].text for key in found} == {f"q{i}#0": f"text of question {i}" for i in range(11)}


def test_what_a_kill_leaves_half_written_is_ignored(tmp_path):
    with pytest.raises(Killed):
        answer(tmp_path, rows(4), Echo(on_batch=kill_at(1)))
    (tmp_path / "answers" / ".000000.parquet.tmp").write_bytes(b"PAR1 half a file")
    backend = Echo()
    answer(tmp_path, rows(4), backend)
    assert backend.asked == ["q2#0", "q3#0"]


def test_files_are_filled_before_a_new_one_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 4)
    answer(tmp_path, rows(11), Echo(size=1))
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in sorted((tmp_path / "answers").glob("*.parquet"))]
    assert sizes == [4, 4, 3]


def test_a_batch_larger_than_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 4)
    found = answer(tmp_path, rows(11), Echo(size=11))
    assert [found[key].text for key in found] == [f"text of question {i}" for i in range(11)]


def test_a_finished_stage_asks_nothing(tmp_path):
    answer(tmp_path, rows(3), Echo())
    backend, says = Echo(), io.StringIO()
    assert len(answer(tmp_path, rows(3), backend, says=says)) == 3
    assert backend.asked == []
    assert "3 of 3 rows are answered already" in says.getvalue()


def test_answers_of_another_fingerprint_are_set_aside_and_said(tmp_path):
    answer(tmp_path, rows(3), Echo())
    says = io.StringIO()
    other = FINGERPRINT | {"model": "better"}
    backend = Echo()
    answer(tmp_path, rows(3), backend, other, says=says)
    assert len(backend.asked) == 3
    assert 'model: "m" before, "better" now' in says.getvalue()
    assert "sampling" not in says.getvalue()
    kept = tmp_path / "set_aside" / "001"
    assert json.loads((kept / "fingerprint.json").read_text()) == FINGERPRINT
    assert pq.ParquetFile(kept / "000000.parquet").metadata.num_rows == 3
    answer(tmp_path, rows(3), Echo(), FINGERPRINT)
    assert (tmp_path / "set_aside" / "002").is_dir()


def test_answers_without_a_fingerprint_are_not_used(tmp_path):
    answer(tmp_path, rows(3), Echo())
    (tmp_path / "answers" / "fingerprint.json").unlink()
    backend = Echo()
    answer(tmp_path, rows(3), backend)
    assert len(backend.asked) == 3


def test_a_row_that_has_changed_is_asked_again(tmp_path):
    answer(tmp_path, rows(3), Echo())
    changed = rows(3)
    changed[1]["text"] = "another question"
    backend, says = Echo(), io.StringIO()
    found = answer(tmp_path, changed, backend, says=says)
    assert backend.asked == ["q1#0"]
    assert found["q1#0"].text == "text of another question"
    assert "1 stored answers belong to rows that have changed" in says.getvalue()
    assert answer(tmp_path, changed, Echo())["q1#0"].text == "text of another question"


def test_rows_may_be_added_and_left_out(tmp_path):
    answer(tmp_path, rows(3), Echo())
    backend = Echo()
    found = answer(tmp_path, rows(5)[2:], backend)
    assert backend.asked == ["q3#0", "q4#0"]
    assert list(found) == ["q2#0", "q3#0", "q4#0"]


def test_failed_rows_are_listed_and_asked_again(tmp_path):
    found = answer(tmp_path, rows(20), Echo(bad=["q3#0", "q7#0"]))
    assert found.failed == {"q3#0": "broken clip q3#0", "q7#0": "broken clip q7#0"}
    assert found["q3#0"] == Answer("q3#0", error="broken clip q3#0")
    listed = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert sorted(line["key"] for line in listed) == ["q3#0", "q7#0"]
    backend = Echo()
    found = answer(tmp_path, rows(20), backend)
    assert backend.asked == ["q3#0", "q7#0"]
    assert found.failed == {}
    assert not (tmp_path / "failed.jsonl").exists()


def test_too_many_failures_stop_the_stage_with_the_commonest_cause(tmp_path):
    class Broken(Echo):
        def _answer(self, row, to_request):
            return Answer(row["key"], error="odd" if row["key"] == "q0#0" else "no such model")

    backend = Broken(size=5)
    with pytest.raises(TooManyFailed, match=r"15 of 15 rows failed.*14 of them with: no such model") as raised:
        answer(tmp_path, rows(400), backend)
    # 10 % of the first 100 rows are 10: the third batch of five is beyond them.
    assert len(backend.asked) == 15
    assert backend.closed
    assert str(tmp_path / "failed.jsonl") in str(raised.value)


@pytest.mark.parametrize(("share", "num_bad", "stops"), [(0.0, 1, True), (0.01, 1, False), (0.1, 3, True)])
def test_the_share_of_a_small_stage(tmp_path, share, num_bad, stops):
    backend = Echo(bad=[f"q{i}#0" for i in range(num_bad)])
    if stops:
        with pytest.raises(TooManyFailed):
            answer(tmp_path, rows(20), backend, share=share)
    else:
        assert len(answer(tmp_path, rows(20), backend, share=share).failed) == num_bad


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_what_is_finished_and_says_so(tmp_path, number):
    def on_batch(batch):
        if batch == 2:
            os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGTERM)
    backend = Echo(on_batch=on_batch)
    with pytest.raises(Interrupted, match=rf"answers so far are kept in {tmp_path}; the same command asks"):
        answer(tmp_path, rows(10), backend)
    assert backend.closed
    assert signal.getsignal(signal.SIGTERM) is before
    backend = Echo()
    answer(tmp_path, rows(10), backend)
    assert len(backend.asked) == 6


def test_a_key_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"rows 0 and 3 have the same key 'q0#0'"):
        answer(tmp_path, [*rows(3), *rows(1)], Echo())


@pytest.mark.parametrize("key", [None, "", 3])
def test_a_row_without_a_key_is_refused(tmp_path, key):
    with pytest.raises(UserError, match="needs a text under `key`"):
        answer(tmp_path, [{"key": key}], Echo())


def test_half_a_surrogate_pair_is_stored(tmp_path):
    hostile = [{"key": "q\ud800", "text": "\udfff"}]
    answer(tmp_path, hostile, Echo())
    backend = Echo()
    found = answer(tmp_path, hostile, backend)
    assert backend.asked == []
    assert found["q\ud800"].text == "text of \\udfff"


def test_two_processes_in_one_folder_are_refused(tmp_path):
    def second(batch):
        with pytest.raises(UserError, match="another process answers rows"):
            answer(tmp_path, rows(2), Echo())

    answer(tmp_path, rows(2), Echo(on_batch=second))


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"):
        answer(Path(tmp_path / "file" / "answers"), rows(1), Echo())


def test_a_damaged_file_is_named_and_once_it_is_removed_its_rows_are_asked_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "PART_ROWS", 2)
    answer(tmp_path, rows(4), Echo())
    (tmp_path / "answers/000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"answers/000000\.parquet cannot be read .*remove it, and the same command"):
        answer(tmp_path, rows(4), Echo())
    (tmp_path / "answers/000000.parquet").unlink()
    again = Echo()
    found = answer(tmp_path, rows(4), again)
    assert again.asked == ["q0#0", "q1#0"]
    assert [found[key].text for key in found] == [f"text of question {i}" for i in range(4)]
