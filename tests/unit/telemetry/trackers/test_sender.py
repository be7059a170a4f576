"""A tracker gets every row in order; one that fails or hangs neither stops nor slows the run."""

import asyncio
import contextlib
import json
import threading

import pytest

from ssr1_rl.config.schema import Config
from ssr1_rl.telemetry.trackers import ids as ids_module
from ssr1_rl.telemetry.trackers import sender as sender_module
from ssr1_rl.telemetry.trackers import tracking as tracking_module
from ssr1_rl.telemetry.trackers.base import TrackedRun
from ssr1_rl.telemetry.trackers.ids import IDS_FILE, RunIds
from ssr1_rl.telemetry.trackers.sender import Sender
from ssr1_rl.telemetry.trackers.tracking import tracking


class Fake:
    """A tracker that keeps what it gets. `fails` holds what each call does first: None, or an error that it raises."""

    def __init__(self, *fails, gate=None):
        self.rows, self.ended, self.started = [], None, []
        self._fails, self._gate = list(fails), gate
        self.tried = threading.Semaphore(0)

    def _next(self):
        self.tried.release()
        if self._gate is not None:
            self._gate.wait()
        if self._fails and (error := self._fails.pop(0)) is not None:
            raise error

    def start(self, run, run_id):
        self._next()
        self.started.append((run.name, run_id))
        return run_id or "new-id"

    def log(self, step, metrics):
        self._next()
        self.rows.append((step, metrics))

    def finish(self, ending):
        self._next()
        self.ended = ending


@pytest.fixture
def run(tmp_path):
    return TrackedRun("project", "name", tmp_path, {})


@pytest.fixture
def start(run, tmp_path):
    def start(fake, notes, retries_after_s=(0.0, 0.0)):
        return Sender("fake", lambda: fake, run, RunIds(tmp_path), notes.append, retries_after_s)

    return start


def close(sender, ending="finished"):
    sender.finish(ending)
    sender.join(60)


def test_every_row_arrives_in_order_and_the_run_is_closed(start):
    fake, notes = Fake(), []
    sender = start(fake, notes)
    rows = [(step, {"train/loss": step / 2}) for step in range(500)]
    for row in rows:
        sender.put(*row)
    close(sender)
    assert (fake.rows, fake.ended, notes) == (rows, "finished", [])


def test_a_failed_run_is_closed_as_failed(start):
    fake = Fake()
    sender = start(fake, [])
    sender.put(1, {"a": 1.0})
    close(sender, "failed")
    assert fake.ended == "failed"


def test_a_run_that_ends_without_a_row_starts_no_run_of_the_tracker(start, tmp_path):
    fake, notes = Fake(), []
    close(start(fake, notes), "failed")
    assert fake.ended is None
    assert notes == []
    assert not (tmp_path / IDS_FILE).exists()


def test_a_start_that_does_not_resume_replaces_the_ids_once_it_has_one(tmp_path):
    RunIds(tmp_path).set("fake", "old")
    ids = RunIds(tmp_path, continues=False)
    assert ids.get("fake") == ""
    assert RunIds(tmp_path).get("fake") == "old", "a start that fails leaves the file"
    ids.set("fake", "new")
    assert RunIds(tmp_path).get("fake") == "new"


def test_a_failure_is_said_once_and_retried(start):
    fake, notes = Fake(None, OSError("no route to //user:pass@host"), OSError("again"), None, OSError("third")), []
    sender = start(fake, notes)
    for step in (1, 2):
        sender.put(step, {"a": 1.0})
    for _ in range(6):  # start, three tries of the first row, two of the second
        assert fake.tried.acquire(timeout=60)
    close(sender)
    assert [step for step, _ in fake.rows] == [1, 2]
    assert notes == [
        "fake could not take a row of metrics (no route to //…@host); the run goes on, and this is tried again"
    ]


def test_a_row_that_always_fails_is_counted_and_the_next_one_is_sent(start):
    fake, notes = Fake(None, *[ValueError("bad name")] * 3), []
    sender = start(fake, notes)
    sender.put(1, {"a": 1.0})
    sender.put(2, {"a": 2.0})
    for _ in range(5):
        assert fake.tried.acquire(timeout=60)
    close(sender)
    assert [step for step, _ in fake.rows] == [2]
    assert notes[1:] == ["fake: 1 rows of metrics were not sent; metrics.jsonl has every row"]


def test_a_tracker_that_cannot_start_is_tried_until_the_end(start, tmp_path):
    fake, notes = Fake(*[OSError("down")] * 20), []
    sender = start(fake, notes)
    for step in range(3):
        sender.put(step, {"a": 1.0})
    for _ in range(21):
        assert fake.tried.acquire(timeout=60)
    close(sender)
    assert [step for step, _ in fake.rows] == [0, 1, 2], "nothing that came before its start is lost"
    assert len(notes) == 1

    sender = start(never := Fake(*[OSError("down")] * 10**4), notes := [], (3600.0,))
    sender.put(1, {"a": 1.0})
    assert never.tried.acquire(timeout=60)
    close(sender)
    assert (
        notes[1] == "fake: 1 rows of metrics were not sent and its run could not be closed; metrics.jsonl has every row"
    )


def test_a_package_that_does_not_import_is_said(run, tmp_path):
    def make():
        raise ImportError("libfoo.so is missing")

    notes = []
    sender = Sender("fake", make, run, RunIds(tmp_path), notes.append, (3600.0,))
    sender.put(1, {"a": 1.0})
    close(sender)
    assert notes[0].startswith("fake could not start its run (libfoo.so is missing)")


def test_a_tracker_that_hangs_holds_nobody_up(start, monkeypatch):
    monkeypatch.setattr(sender_module, "MAX_WAITING_ROWS", 10)
    gate = threading.Event()
    fake, notes = Fake(gate=gate), []
    sender = start(fake, notes)
    for step in range(25):
        sender.put(step, {"a": 1.0})
    sender.finish("finished")
    sender.join(0.0)
    assert notes == [
        "fake: 25 rows of metrics were not sent and its run could not be closed; metrics.jsonl has every row"
    ]
    gate.set()
    sender.join(60)
    assert [step for step, _ in fake.rows] == list(range(15, 25)), "the newest rows are kept"


def test_a_row_is_as_it_was_when_it_was_handed_over(start):
    fake, metrics = Fake(), {"a": 1.0}
    sender = start(fake, [])
    sender.put(1, metrics)
    metrics["a"] = 2.0
    close(sender)
    assert fake.rows == [(1, {"a": 1.0})]


@pytest.fixture
def config(tmp_path):
    config = Config()
    config.run.name, config.run.dir = "name", str(tmp_path)
    config.telemetry.trackers = ["wandb", "mlflow"]
    return config


async def test_a_resumed_run_continues_the_trackers_runs(config, tmp_path, monkeypatch):
    fakes = {}
    monkeypatch.setattr(tracking_module, "make_tracker", lambda name: fakes.setdefault(name, Fake()))

    async def one(resumes):
        fakes.clear()
        async with tracking(config, resumes, print, Stopped) as log:
            log(1, {"a": 1.0})
        return {name: fake.started[0][1] for name, fake in fakes.items()}

    assert await one(False) == {"wandb": "", "mlflow": ""}
    assert json.loads((tmp_path / IDS_FILE).read_text()) == {"wandb": "new-id", "mlflow": "new-id"}
    assert await one(True) == {"wandb": "new-id", "mlflow": "new-id"}
    assert await one(False) == {"wandb": "", "mlflow": ""}, "a run that starts anew starts new ones"
    (tmp_path / IDS_FILE).write_text('{"wandb"')
    assert await one(True) == {"wandb": "", "mlflow": ""}, "a damaged file is none"
    assert [path.name for path in tmp_path.iterdir()] == [IDS_FILE]


class Stopped(Exception):
    """What ends a run that is to be continued."""


class TimeIsUp(Stopped):
    """One kind of it."""


@pytest.mark.parametrize(
    ("raised", "ending"),
    [(RuntimeError("engine died"), "failed"), (asyncio.CancelledError(), "stopped"), (TimeIsUp(), "stopped")],
)
async def test_the_end_of_the_run_is_told(config, monkeypatch, raised, ending):
    fakes = {}
    monkeypatch.setattr(tracking_module, "make_tracker", lambda name: fakes.setdefault(name, Fake()))
    with contextlib.suppress(type(raised)):
        async with tracking(config, False, print, Stopped) as log:
            log(1, {"a": 1.0})
            raise raised
    assert [(fake.ended, len(fake.rows)) for fake in fakes.values()] == [(ending, 1)] * 2


async def test_without_trackers_nothing_is_made(config, tmp_path):
    config.telemetry.trackers = []
    async with tracking(config, True, print, Stopped) as log:
        log(1, {"a": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_cannot_be_written_at_first_does_not_start_a_second_run(start, tmp_path, monkeypatch):
    fake, notes, failures = Fake(), [], [OSError("disk full"), OSError("disk full")]
    write = ids_module.write_json

    def write_json(*args):
        if failures:
            raise failures.pop()
        write(*args)

    monkeypatch.setattr(ids_module, "write_json", write_json)
    sender = start(fake, notes)
    sender.put(1, {"a": 1.0})
    for _ in range(2):  # start and row
        assert fake.tried.acquire(timeout=60)
    close(sender)
    assert fake.started == [("name", "")]
    assert RunIds(tmp_path).get("fake") == "new-id"
    assert notes == ["fake could not have its id kept in run.dir (disk full); the run goes on, and this is tried again"]
