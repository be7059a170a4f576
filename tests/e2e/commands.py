"""Runs the `ssr1-rl` command as a user would, with the small world."""

import os
import subprocess
import sys
from pathlib import Path

SSR1_RL = Path(sys.executable).parent / "ssr1-rl"
ROOT = Path(__file__).parents[2]

SMALL = [
    "grpo.questions_per_step=4",
    "grpo.group_size=4",
    "grpo.num_minibatches=1",
    "grpo.num_steps=2",
    "grpo.validate_every=2",
    "checkpoint.every=1",
    "rollout.num_workers=1",
    "learner.num_threads=1",
]
"""Overrides that make launch/local.yaml a matter of seconds, beside starting the engines."""


def environment(soundworld: Path, **changes: str) -> dict[str, str]:
    """The environment of a user who has made a world in `soundworld`; for the niceness see tests/conftest.py."""
    ours = ("RAY_", "PYTEST_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours) or k == "RAY_worker_niceness"}
    path = f"{SSR1_RL.parent}{os.pathsep}{kept['PATH']}"
    here = {"SSR1_RL_SOUNDWORLD": str(soundworld), "TRACKIO_DIR": str(soundworld / "trackio"), "PATH": path}
    return kept | here | changes


def grpo(
    soundworld: Path, *overrides: str, file: str = "launch/local.yaml", timeout_s: float = 240
) -> subprocess.CompletedProcess[str]:
    """`ssr1-rl grpo FILE …` to its end."""
    return subprocess.run(
        [str(SSR1_RL), "grpo", file, *overrides],
        cwd=ROOT,
        env=environment(soundworld),
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
