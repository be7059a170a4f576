"""`make soak`: the whole recipe as a user types it, killed in every stage, goes on and ends with its table."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.commands import ROOT, SSR1_RL, environment
from tests.e2e.conftest import submit

pytestmark = pytest.mark.soak
FILE = "launch/recipe_local.yaml"
STAGES = ["generate", "verify", "sft", "grpo", "evaluate"]
SMALL = [
    "verifier.threshold=0",
    "stages.sft.sft.max_steps=4",
    "stages.sft.sft.questions_per_step=8",
    "stages.sft.checkpoint.every=2",
    "stages.grpo.grpo.num_steps=2",
    "stages.grpo.grpo.questions_per_step=4",
    "stages.grpo.grpo.group_size=4",
    "stages.grpo.grpo.num_minibatches=1",
    "stages.grpo.grpo.validate_every=2",
    "stages.grpo.checkpoint.every=1",
    "rollout.num_workers=1",
]
BEGUN = {
    "generate": "generate/generate/answers/*.parquet",
    "verify": "verify/verify/answers/*.parquet",
    "sft": "sft/checkpoints/step_*",
    "grpo": "grpo/checkpoints/step_*",
    "evaluate": "evaluate/pretrained/answers/*.parquet",
}
"""Files that a stage has written before it is done."""


@pytest.fixture(scope="module")
def sightworld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sight") / "sightworld"
    subprocess.run([str(SSR1_RL), "sightworld", str(folder), "--tiny"], cwd=ROOT, check=True)
    return folder


def command(folder: Path) -> list[str]:
    return [str(SSR1_RL), "recipe", FILE, f"run.dir={folder}", *SMALL]


def killed_in(stage: str, folder: Path, env: dict[str, str]) -> None:
    """Starts the recipe and kills it with SIGKILL once the stage has written something."""
    log = folder.with_name(f"killed_in_{stage}.log")
    with log.open("w") as output:
        process = subprocess.Popen(command(folder), cwd=ROOT, env=env, stdout=output, stderr=output)
        deadline = time.monotonic() + 400
        while not list(folder.glob(BEGUN[stage])):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def test_a_recipe_that_is_killed_in_every_stage_ends_with_the_table(sightworld: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recipe"
    env = environment(sightworld, SSR1_RL_SIGHTWORLD=str(sightworld))
    for stage in STAGES:
        killed_in(stage, folder, env)
    done = subprocess.run(command(folder), cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, stage in enumerate(STAGES, start=1):
        assert f"[{number}/5] {stage}: " in done.stdout
    states = json.loads((folder / "recipe.json").read_text())
    assert list(states) == STAGES and all(state["is_done"] for state in states.values())
    asked = Counter(
        (row["question_id"], row["chain"]) for row in pq.read_table(folder / "verify/verified.parquet").to_pylist()
    )
    assert len(asked) == 24 * 4 and set(asked.values()) == {1}, "no chain is lost, and none is there twice"
    table = (folder / "results.md").read_text()
    assert all(f"| {model} |" in table for model in ("pretrained", "sft", "grpo"))
    assert not (folder / "set_aside").exists(), "nothing was made twice"

    again = subprocess.run(command(folder), cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count(": unchanged; ") == 5


def test_ray_job_submit_runs_a_recipe(cluster: dict[str, str], sightworld: Path, tmp_path: Path) -> None:
    variables = json.dumps({"env_vars": {"SSR1_RL_SIGHTWORLD": str(sightworld)}})
    settings = [f"run.dir={tmp_path}/recipe", "sft.responses=labels", *SMALL]
    done = submit(cluster, "--runtime-env-json", variables, "--", FILE, *settings, timeout_s=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[2/5] verify: not needed with sft.responses=labels" in done.stdout
    assert "| grpo |" in (tmp_path / "recipe/results.md").read_text()
