"""`make soak`: a run on a machine that is taken away every 20 seconds; some minutes, so not part of `make test`."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment
from tests.e2e.test_run import rows_of_steps, wait_for

NUM_STEPS = 3
pytestmark = pytest.mark.soak


def test_a_run_that_is_terminated_every_20_s_reaches_its_last_step(soundworld: Path, tmp_path: Path) -> None:
    """SIGTERM comes 20 s after each start, or as soon as the first step runs where the start takes longer."""
    run = tmp_path / "run"
    kept = [o for o in SMALL if not o.startswith(("grpo.num_steps", "checkpoint.every"))]
    # Without validations: where a start takes longer than 20 s, each of them would be broken off.
    settings = [*kept, f"grpo.num_steps={NUM_STEPS}", "checkpoint.every=1000", "grpo.validate_first=false"]
    settings += ["grpo.validate_every=0"]
    command = [str(SSR1_RL), "grpo", "launch/local.yaml", f"run.dir={run}", *settings]
    codes = []
    for _ in range(NUM_STEPS):
        codes.append(one_life(command, environment(soundworld), run))
        if codes[-1] == 0:
            break
    assert codes[-1] == 0, codes
    assert codes.count(130) >= 1, "at least one life was cut short"
    assert set(codes) == {0, 130}
    assert [row["step"] for row in rows_of_steps(run)] == list(range(1, NUM_STEPS + 1))
    assert not (run / "set_aside").exists(), "no step was made twice"
    assert json.loads((run / "summary.json").read_text())["num_steps"] == NUM_STEPS


def one_life(command: list[str], env: dict[str, str], run: Path) -> int:
    """Starts the run and terminates it; the exit code."""
    started, config = time.time(), run / "config.yaml"
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # Written when engines and learners are up and the loop begins.
    wait_for(lambda: config.exists() and config.stat().st_mtime > started, 200, process)
    try:
        output, _ = process.communicate(timeout=max(0.1, 20 - (time.time() - started)))
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
    print(output)
    return process.returncode
