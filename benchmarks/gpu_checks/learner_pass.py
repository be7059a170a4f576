"""The learner's pass benchmark at its smallest size, so that it is known to run before it is run for its figures."""

import subprocess
import sys
import tempfile
from pathlib import Path

from gpu_checks.registry import need_gpus


def run(device: str) -> str:
    """Runs the program; its own checks and shapes must hold."""
    if device == "cuda":
        need_gpus(1)
    program = Path(__file__).parents[1] / "gpu_learner.py"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, program, "--tiny", "--device", device, "--rounds", "1", "--results", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-500:]}"
    left_out = [line for line in done.stdout.splitlines() if line.startswith("left out")]
    return "; ".join(["it runs", *left_out])
