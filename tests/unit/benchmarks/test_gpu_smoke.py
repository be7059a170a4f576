"""The program that tries GPU paths: a check that crashes or hangs is reported, and ends with all that it started."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import gpu_smoke
from gpu_checks import audio_tower, registry
from gpu_checks.processes import Worker, run_together
from gpu_checks.registry import CHECKS, Check, NotPossible, need_gpus, need_package, only_gpu

from ssr1_rl.audio_families import AUDIO_FAMILIES

BENCHMARKS = Path(gpu_smoke.__file__).parent


def run(code, limit_s=60):
    """The result of a check whose process runs `code`, which gets name, device and the result's file."""
    return gpu_smoke.run_check(Check("it", "", "that it works", limit_s), "cpu", (sys.executable, "-c", code))


def test_a_check_that_ends_says_what_it_found():
    found = run("import sys, json; json.dump({'status': 'passed', 'found': sys.argv[2]}, open(sys.argv[3], 'w'))")
    assert found.pop("seconds") >= 0
    assert found == {"check": "it", "shows": "that it works", "status": "passed", "found": "cpu"}


def test_a_crash_is_a_failure_with_the_last_output():
    found = run("import os; print('just before', flush=True); os.kill(os.getpid(), 11)")
    assert (found["status"], found["found"]) == ("failed", "its process ended with exit code -11, without a result")
    assert found["output"] == "just before\n"


def test_a_check_that_hangs_is_a_failure():
    found = run("import signal; signal.pause()", limit_s=1)
    assert (found["status"], found["found"]) == ("failed", "it was not done after 1 s")


def test_what_a_check_started_ends_with_it():
    started = "import subprocess, os; print(subprocess.Popen(['sleep', '600']).pid, flush=True); os._exit(3)"
    pid = int(run(started)["output"])
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], 60)
    assert ended, "it was killed, and at most is about to end"


def test_the_table_counts_and_stays_on_one_line_for_each_check():
    results = [
        {"check": "a", "status": "passed", "seconds": 1.0, "found": "well"},
        {"check": "bb", "status": "failed", "seconds": 2.0, "found": "Error: first\nsecond"},
        {"check": "c", "status": "failed", "seconds": 2.0, "found": ""},
    ]
    lines = gpu_smoke.table(results).splitlines()
    assert len(lines) == 4
    assert lines[1].startswith("bb  failed") and lines[1].endswith("Error: first")
    assert lines[-1] == "1 passed, 2 failed, 0 not possible"


def test_the_report_says_where_it_was_made(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_smoke, "gpus", lambda: ["NVIDIA H100, 81559 MiB, 580.1"])
    gpu_smoke.write_report(tmp_path / "a" / "report.json", "cuda", [])
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["machine"]["gpus"] == ["NVIDIA H100, 81559 MiB, 580.1"]
    assert {"torch", "vllm", "deepspeed", "transformers", "python"} <= report["versions"].keys()
    assert report.keys() >= {"commit", "date", "command", "results", "device"}


def test_a_machine_without_gpus_is_told_what_it_can_run(monkeypatch):
    monkeypatch.setattr(gpu_smoke, "gpus", list)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py"])
    with pytest.raises(SystemExit, match="--device cpu runs the checks"):
        gpu_smoke.main()


def test_every_check_has_its_file_and_every_family_its_model():
    for check in CHECKS:
        assert (BENCHMARKS / "gpu_checks" / f"{check.module}.py").is_file(), check.name
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert audio_tower.CONFIGS.keys() == AUDIO_FAMILIES.keys()


def test_what_a_machine_lacks_is_named(monkeypatch):
    monkeypatch.setattr(registry, "num_gpus", lambda: 1)
    need_gpus(1)
    with pytest.raises(NotPossible, match="it needs 2 GPUs, and 1 can be seen"):
        need_gpus(2)
    with pytest.raises(NotPossible, match="the package no_such_package is not installed"):
        need_package("no_such_package")


def test_a_gpu_is_chosen_among_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(registry, "num_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert only_gpu(0, 2) == {"CUDA_VISIBLE_DEVICES": "0,2"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    assert only_gpu(1) == {"CUDA_VISIBLE_DEVICES": "GPU-7"}


def test_processes_get_environments_of_their_own_and_a_crash_ends_all():
    calls = [(os.getenv, ("WHERE", "")), (os.getenv, ("WHERE", ""))]
    assert run_together(calls, [{"WHERE": "here"}, {}]) == ["here", ""]
    with pytest.raises(RuntimeError, match="its process ended with exit code 7"):
        run_together([(os._exit, (7,)), (signal.pause, ())], [{}, {}])


def test_a_failing_call_gives_its_traceback():
    worker = Worker()
    try:
        with pytest.raises(RuntimeError, match=r"int\(\) can't convert|invalid literal"):
            worker.call(int, "no number")
    finally:
        worker.end()


def test_the_program_starts_without_torch():
    """A broken torch must not keep the checks from being reported."""
    code = f"import sys; sys.path.append({str(BENCHMARKS)!r}); import gpu_smoke; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
