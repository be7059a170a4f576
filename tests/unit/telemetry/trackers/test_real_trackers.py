"""The real packages, offline: what they keep of a run, and that a resumed run continues it."""

import asyncio
import json
import sqlite3
import struct
import sys

import pytest

from ssr1_rl.checks.rules import load_config
from ssr1_rl.errors import ConfigError
from ssr1_rl.telemetry.trackers.base import PACKAGES, check_installed
from ssr1_rl.telemetry.trackers.ids import RunIds
from ssr1_rl.telemetry.trackers.tracking import tracking

SECRET = "sk-very-secret-value"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs one start of a run with a tracker, in a process without network; returns what was said."""
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in [name for name in sys.modules if "trackio" in name]:
        monkeypatch.delitem(sys.modules, module)  # it reads TRACKIO_DIR once, when it is imported

    def run(name, rows, resumes=False, fails=None):
        overrides = ["run.name=x", f"run.dir={tmp_path / 'run'}", "model.path=m", "data.train.path=q"]
        overrides += [f"telemetry.trackers=[{name}]", "rewards=[{path: 'a.py:f', options: {k: '${oc.env:JUDGE_KEY}'}}]"]
        config = load_config(None, overrides)
        (tmp_path / "run").mkdir(exist_ok=True)
        notes = []

        async def one():
            async with tracking(config, resumes, notes.append, TimeoutError) as log:
                for row in rows:
                    log(*row)
                if fails:
                    raise fails

        try:
            asyncio.run(one())
        except (RuntimeError, TimeoutError):
            assert fails
        return notes

    yield run
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()  # the next test has another environment


FIRST = [(0, {"validation/a b!/score": 0.5}), (1, {"train/loss": 1.5, "x": float("nan")}), (2, {"train/loss": 1.25})]
AGAIN = [(2, {"train/loss": 1.75, "y": float("inf")}), (3, {"train/loss": 1.0})]


def twice(run, name):
    """A run that fails after its second step, and is resumed from its first."""
    assert run(name, FIRST, fails=RuntimeError) == []
    assert run(name, AGAIN, resumes=True) == []


def test_wandb(run, tmp_path):
    twice(run, "wandb")
    run_id = RunIds(tmp_path / "run").get("wandb")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in files] == [f"run-{run_id}.wandb"] * 2
    stored = [rows_of_wandb(path) for path in files]
    assert [[(row["step"], row.get("train/loss")) for row in rows] for rows in stored] == [
        [(0, None), (1, 1.5), (2, 1.25)],
        [(2, 1.75), (3, 1.0)],
    ], "no repeated step is dropped"
    for path in (tmp_path / "run" / "wandb").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def rows_of_wandb(path):
    history = [record.history for record in records_of_wandb(path) if record.HasField("history")]
    return [{"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in row.item} for row in history]


def records_of_wandb(path):
    """The records in the file of an offline run: LevelDB's log format, in blocks of 32 KiB, of protobuf messages."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts, records = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return records


def test_mlflow(run, tmp_path):
    twice(run, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    [experiment] = [e for e in client.search_experiments() if e.name == "ssr1-rl"]
    [found] = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == RunIds(tmp_path / "run").get("mlflow")
    assert (found.info.run_name, found.info.status) == ("x", "FINISHED")
    loss = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in loss] == [(1, 1.5), (2, 1.25), (2, 1.75), (3, 1.0)]
    assert found.data.metrics["validation/a b_/score"] == 0.5
    assert found.data.params["rewards.0.options.k"] == "${oc.env:JUDGE_KEY}"
    assert found.data.params["grpo.group_size"] == "8"


def test_a_run_that_was_stopped_is_not_shown_as_finished_or_failed(run, tmp_path):
    assert [run(name, FIRST, fails=TimeoutError) for name in ("wandb", "mlflow")] == [[], []]
    from mlflow.tracking import MlflowClient

    assert MlflowClient().get_run(RunIds(tmp_path / "run").get("mlflow")).info.status == "KILLED"
    [path] = (tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb")
    assert any(record.HasField("preempting") for record in records_of_wandb(path))
    assert [record.exit.exit_code for record in records_of_wandb(path) if record.HasField("exit")] == [1]


def test_trackio(run, tmp_path):
    twice(run, "trackio")
    database = sqlite3.connect(tmp_path / "trackio" / "ssr1-rl.db")
    rows = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    name = RunIds(tmp_path / "run").get("trackio")
    assert {row[0] for row in rows} == {name}
    found = [(step, json.loads(metrics).get("train/loss")) for _, step, metrics in rows]
    assert found == [(0, None), (1, 1.5), (2, 1.25), (2, 1.75), (3, 1.0)]
    assert SECRET.encode() not in (tmp_path / "trackio" / "ssr1-rl.db").read_bytes()


def test_wandb_without_a_key_is_said_and_does_not_ask(run, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    first, last = run("wandb", FIRST)
    assert "wandb could not start its run (No API key configured" in first
    assert last == "wandb: 3 rows of metrics were not sent and its run could not be closed; metrics.jsonl has every row"


def test_a_missing_package_is_refused_with_its_command(monkeypatch):
    check_installed(list(PACKAGES))
    monkeypatch.setitem(PACKAGES, "wandb", "no_such_package_at_all")
    with pytest.raises(ConfigError, match=r"telemetry\.trackers names wandb, .*: pip install 'ssr1-rl\[wandb\]'"):
        check_installed(["mlflow", "wandb"])
