"""`make soak`: a run on a machine that is taken away every 20 seconds; some minutes, so not part of `make test`."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment
from tests.e2e.test_run import rows_of_steps

NUM_STEPS = 3
pytestmark = pytest.mark.soak


def test_a_run_that_is_terminated_every_20_s_reaches_its_last_step(soundworld: Path, tmp_path: Path) -> None:
    """SIGTERM comes 20 s after each start, on most machines before the loop runs."""
    run = tmp_path / "run"
    kept = [o for o in SMALL if not o.startswith(("grpo.num_steps", "checkpoint.every"))]
    settings = [*kept, f"grpo.num_steps={NUM_STEPS}", "checkpoint.every=1000"]
    command = [str(SSR1_RL), "grpo", "launch/local.yaml", f"run.dir={run}", *settings]
    codes = []
    for _ in range(NUM_STEPS + 2):
        codes.append(one_life(command, environment(soundworld)))
        if codes[-1] == 0:
            break
    assert codes[-1] == 0, codes
    assert codes.count(130) >= 1, "at least one life was cut short"
    assert set(codes) == {0, 130}
    assert [row["step"] for row in rows_of_steps(run)] == list(range(1, NUM_STEPS + 1))
    assert not (run / "set_aside").exists(), "no step was made twice"
    assert json.loads((run / "summary.json").read_text())["num_steps"] == NUM_STEPS


def one_life(command: list[str], env: dict[str, str]) -> int:
    """Starts the run and terminates it after 20 s; the exit code."""
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=300)
    print(output)
    return process.returncode
