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

from ssr1_rl.files import SetAside
from ssr1_rl.telemetry.metrics import MetricsWriter, read_metrics


def write_steps(run_dir, steps, kept_step=-1, tensorboard=False, value=1.0, revalidates=False):
    writer = open_writer(run_dir, tensorboard, kept_step, revalidates)
    for step in steps:
        writer.write(step, {"train/loss": value})
    writer.close()


def open_writer(run_dir, tensorboard=False, kept_step=-1, revalidates=False):
    return MetricsWriter(run_dir, tensorboard, SetAside(run_dir, max(0, kept_step)), kept_step, revalidates)


def set_aside(run_dir):
    """The lines of every metrics.jsonl that was set aside."""
    return [line for f in sorted(run_dir.glob("set_aside/*/metrics.jsonl")) for line in f.read_bytes().splitlines()]


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
    writer = open_writer(tmp_path / "new" / "run")
    writer.write(3, {"train/loss": np.float32(0.5), "rollout/tokens_per_s": 7})
    (row,) = read_metrics(tmp_path / "new" / "run")
    assert (row["step"], row["train/loss"], row["rollout/tokens_per_s"]) == (3, 0.5, 7.0)
    assert row["time_s"] > 1.7e9
    writer.close()


def test_nan_and_infinity_survive_a_strict_reader(tmp_path):
    writer = open_writer(tmp_path)
    writer.write(1, {"a/nan": math.nan, "a/up": math.inf, "a/down": -math.inf})
    writer.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (row["a/nan"], row["a/up"], row["a/down"]) == ("NaN", "Infinity", "-Infinity")
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a/nan"])
    assert (row["a/up"], row["a/down"]) == (math.inf, -math.inf)


def test_resume_sets_the_rows_aside_that_are_done_again(tmp_path):
    write_steps(tmp_path, [0, 1, 2, 2, 3, 4])
    before = (tmp_path / "metrics.jsonl").read_bytes().splitlines()
    write_steps(tmp_path, [3], kept_step=2, value=2.0)
    assert steps_of(tmp_path) == [0, 1, 2, 2, 3]
    assert (tmp_path / "metrics.jsonl").read_bytes().splitlines()[:4] == before[:4]
    assert read_metrics(tmp_path)[-1]["train/loss"] == 2.0
    assert set_aside(tmp_path) == before[4:]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "set_aside"]
    write_steps(tmp_path, [4], kept_step=3)
    assert len(set_aside(tmp_path)) == 2, "nothing more to set aside"


def test_a_run_that_starts_over_keeps_no_row(tmp_path):
    write_steps(tmp_path, [0, 1])
    write_steps(tmp_path, [0])
    assert steps_of(tmp_path) == [0]
    assert len(set_aside(tmp_path)) == 2


def test_a_validation_that_is_made_again_is_not_counted_twice(tmp_path):
    writer = open_writer(tmp_path)
    writer.write(2, {"train/loss": 1.0})
    writer.write(2, {"validation/test/score": 0.5})
    writer.close()
    write_steps(tmp_path, [], kept_step=2, revalidates=True)
    (row,) = read_metrics(tmp_path)
    assert "train/loss" in row
    assert len(set_aside(tmp_path)) == 1


def test_resume_is_atomic(tmp_path, monkeypatch):
    write_steps(tmp_path, [1, 2, 3])
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(source, target):
        if "set_aside" not in str(target):
            raise KeyboardInterrupt
        real(source, target)

    real = os.replace
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        open_writer(tmp_path, kept_step=1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_torn_last_line_is_set_aside(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    torn = path.read_bytes().splitlines()[-1]
    assert steps_of(tmp_path) == [1]  # a reader beside a running writer
    write_steps(tmp_path, [2], kept_step=1)
    assert steps_of(tmp_path) == [1, 2]
    assert set_aside(tmp_path) == [torn]


def test_a_last_line_that_lacks_only_its_end_is_kept_whole(tmp_path):
    write_steps(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    write_steps(tmp_path, [3], kept_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]
    assert set_aside(tmp_path) == []


@pytest.mark.parametrize("content", [b'{"step": ', b"[1]", b"{}", b'{"step": "x"}', b"\xff"])
def test_a_broken_line_within_the_file_is_named_and_does_not_hinder_a_resume(tmp_path, content):
    write_steps(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], content, lines[2], b""]))
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2 is not a row of metrics"):
        read_metrics(tmp_path)
    write_steps(tmp_path, [4], kept_step=3)
    assert steps_of(tmp_path) == [1, 3, 4]
    assert set_aside(tmp_path) == [content]


def test_event_files_hold_the_scalars_and_hide_what_is_done_again(tmp_path):
    write_steps(tmp_path, [1, 2, 3], tensorboard=True)
    write_steps(tmp_path, [2], kept_step=1, tensorboard=True, value=5.0)  # within the same second
    first, second = (read_events(path) for path in sorted((tmp_path / "tensorboard").iterdir()))
    scalars = [(e.step, v.tag, v.simple_value) for e in first for v in e.summary.value]
    assert scalars == [(step, "train/loss", 1.0) for step in (1, 2, 3)]
    starts = [e.step for e in second if e.HasField("session_log")]
    assert starts == [2]  # TensorBoard hides older events from here on
    assert [(e.step, v.simple_value) for e in second for v in e.summary.value] == [(2, 5.0)]


def test_the_events_of_another_run_are_set_aside(tmp_path):
    write_steps(tmp_path, [1], tensorboard=True)
    (events,) = (tmp_path / "tensorboard").iterdir()
    write_steps(tmp_path, [1], tensorboard=True)
    assert [path.name for path in tmp_path.glob("set_aside/*/tensorboard/*")] == [events.name]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_reading_imports_no_torch():
    code = "import sys, ssr1_rl.telemetry.metrics, ssr1_rl.telemetry.samples, ssr1_rl.telemetry.progress\n"
    code += "print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
