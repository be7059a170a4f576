"""metrics.jsonl and the event files: what strict readers see, and what a killed run leaves."""

import json
import math
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from ssr1_rl.telemetry.metrics import MetricsWriter, read_metrics


def write_steps(run_dir, steps, resume_step=0, tensorboard=False, value=1.0):
    writer = MetricsWriter(run_dir, tensorboard, resume_step)
    for step in steps:
        writer.write(step, {"train/loss": value})
    writer.close()


def steps_of(run_dir):
    return [row["step"] for row in read_metrics(run_dir)]


def read_events(path):
    """TFRecord framing: length, its checksum, data, its checksum."""
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        events.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return events


def test_a_row_is_on_disk_before_close(tmp_path):
    writer = MetricsWriter(tmp_path / "new" / "run", tensorboard=False)
    writer.write(3, {"train/loss": np.float32(0.5), "rollout/tokens_per_s": 7})
    (row,) = read_metrics(tmp_path / "new" / "run")
    assert (row["step"], row["train/loss"], row["rollout/tokens_per_s"]) == (3, 0.5, 7.0)
    assert row["time_s"] > 1.7e9
    writer.close()


def test_nan_and_infinity_survive_a_strict_reader(tmp_path):
    writer = MetricsWriter(tmp_path, tensorboard=False)
    writer.write(1, {"a/nan": math.nan, "a/up": math.inf, "a/down": -math.inf})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (row["a/nan"], row["a/up"], row["a/down"]) == ("NaN", "Infinity", "-Infinity")
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a/nan"])
    assert (row["a/up"], row["a/down"]) == (math.inf, -math.inf)


def test_resume_removes_the_rows_that_are_done_again(tmp_path):
    write_steps(tmp_path, [0, 1, 2, 2, 3, 4])
    kept = (tmp_path / "metrics.jsonl").read_bytes().splitlines()[:4]
    write_steps(tmp_path, [3], resume_step=2, value=2.0)
    assert steps_of(tmp_path) == [0, 1, 2, 2, 3]
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[:4] == kept
    assert read_metrics(tmp_path)[-1]["train/loss"] == 2.0
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_run_that_starts_over_keeps_no_row(tmp_path):
    write_steps(tmp_path, [0, 1])
    write_steps(tmp_path, [0])
    assert steps_of(tmp_path) == [0]


def test_resume_is_atomic(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsWriter(tmp_path, tensorboard=False, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_torn_last_line_is_dropped_with_a_note(tmp_path, caplog):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert steps_of(tmp_path) == [1]  # a reader beside a running writer
    write_steps(tmp_path, [2], resume_step=1)
    assert steps_of(tmp_path) == [1, 2]
    assert "incomplete last line" in caplog.text


def test_a_last_line_that_lacks_only_its_end_is_kept_whole(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    write_steps(tmp_path, [3], resume_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


def test_a_broken_line_within_the_file_is_named(tmp_path):
    write_steps(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], lines[1][:10], lines[2]]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is not JSON"):
        read_metrics(tmp_path)


def test_event_files_hold_the_scalars_and_hide_what_is_done_again(tmp_path):
    write_steps(tmp_path, [1, 2, 3], tensorboard=True)
    write_steps(tmp_path, [2], resume_step=1, tensorboard=True, value=5.0)  # within the same second
    first, second = (read_events(path) for path in sorted((tmp_path / "tensorboard").iterdir()))
    scalars = [(e.step, v.tag, v.simple_value) for e in first for v in e.summary.value]
    assert scalars == [(step, "train/loss", 1.0) for step in (1, 2, 3)]
    starts = [e.step for e in second if e.HasField("session_log")]
    assert starts == [2]  # TensorBoard hides older events from here on
    assert [(e.step, v.simple_value) for e in second for v in e.summary.value] == [(2, 5.0)]


def test_reading_imports_no_torch():
    code = "import sys, ssr1_rl.telemetry.metrics, ssr1_rl.telemetry.samples, ssr1_rl.telemetry.progress\n"
    code += "print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
