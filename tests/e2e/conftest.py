"""What tests/e2e shares: a cluster that takes jobs, and the run of two steps that one of them was.

The run is finished by the job. tests/e2e/test_run.py resumes it, and so goes last.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment
from tests.ports import free_ports

RAY = SSR1_RL.parent / "ray"


@pytest.fixture(scope="package")
def cluster(soundworld: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A head node of its own with its dashboard; the environment that reaches it."""
    folder = tmp_path_factory.mktemp("cluster")
    token = folder / "token"
    token.write_text("0123456789abcdef" * 4)
    port, dashboard, client, agent = free_ports(4)
    settings = environment(
        soundworld,
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_ADDRESS=f"http://127.0.0.1:{dashboard}",
        SSR1_RL_NUM_STEPS="2",
    )
    link = short_link(folder)
    start = [
        RAY,
        "start",
        "--head",
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}",
        # Its default is taken where another cluster runs, and then no job is ever accepted.
        f"--dashboard-agent-listen-port={agent}",
        "--num-cpus=3",
        "--num-gpus=0",
        f"--temp-dir={link}",
        "--block",
    ]
    without_address = {k: v for k, v in settings.items() if k != "RAY_ADDRESS"}
    head = subprocess.Popen(start, cwd=ROOT, env=without_address, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_dashboard(dashboard, head)
        wait_for_job_agent(settings)
        yield settings
    finally:
        head.terminate()
        head.wait(60)
        link.unlink()


@dataclass(frozen=True)
class Job:
    """A submitted run and what it printed."""

    folder: Path
    returncode: int
    output: str


@pytest.fixture(scope="package")
def job(cluster: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Job:
    """launch/local.yaml with a user's own reward, submitted as a job. The number of steps is the environment's."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "my_rewards.py").write_text(
        "def brevity(question, completions, longest=24):\n"
        "    return [1 - len(c.token_ids) / longest for c in completions]\n"
    )
    rewards = (
        "rewards=[{name: accuracy}, {name: format, weight: 0.2, options: {partial_credit: true}},"
        f" {{path: '{folder}/my_rewards.py:brevity', weight: 0.1, num_cpus: 0.1, options: {{longest: 48}}}}]"
    )
    small = [o for o in SMALL if not o.startswith(("grpo.num_steps", "rollout.num_workers"))]
    done = submit(cluster, "launch/local.yaml", f"run.dir={folder}/run", rewards, "rollout.num_cpus=0.8", *small)
    return Job(folder / "run", done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="package")
def finished(job: Job) -> Path:
    """The folder of a run of two steps with a user's own reward."""
    assert job.returncode == 0, job.output
    return job.folder


def short_link(folder: Path) -> Path:
    # Ray puts Unix sockets below it, whose paths may have 107 characters at most.
    link = Path(tempfile.gettempdir()) / f"ssr1-{os.getpid()}"
    link.symlink_to(folder, target_is_directory=True)
    return link


def wait_for_dashboard(port: int, head: subprocess.Popen) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert head.poll() is None, "ray start ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the cluster's dashboard did not come up")


def wait_for_job_agent(settings: dict[str, str]) -> None:
    """The dashboard answers some seconds before it can take a job."""
    deadline = time.monotonic() + 90
    while submit(settings, "--", "true").returncode:
        assert time.monotonic() < deadline, "the cluster takes no jobs"
        time.sleep(1)


def submit(cluster: dict[str, str], *command: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", *command], cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=timeout_s
    )
