"""`ray job submit launch/local.yaml` on a real cluster with token authentication."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import ROOT, SMALL, SSR1_RL, environment

RAY = SSR1_RL.parent / "ray"


@pytest.fixture(scope="module")
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
        SSR1_RL_NUM_STEPS="1",
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
        head.wait(20)
        link.unlink()


def short_link(folder: Path) -> Path:
    # Ray puts Unix sockets below it, whose paths may have 107 characters at most.
    link = Path(tempfile.gettempdir()) / f"ssr1-{os.getpid()}"
    link.symlink_to(folder, target_is_directory=True)
    return link


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


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


def submit(cluster: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [RAY, "job", "submit", *command], cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=400
    )


def test_ray_job_submit_runs_a_launch_file(cluster: dict[str, str], tmp_path: Path) -> None:
    small = [o for o in SMALL if not o.startswith(("grpo.num_steps", "rollout.num_workers"))]
    done = submit(cluster, "launch/local.yaml", f"run.dir={tmp_path}/run", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 1/1" in done.stdout
    assert (tmp_path / "run/summary.json").exists()
    assert (tmp_path / "run/checkpoints/step_000001/manifest.json").exists()


def test_without_gpus_the_gpu_recipe_fails_at_once_and_names_the_local_one(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    model = Path(cluster["SSR1_RL_SOUNDWORLD"])
    data = [f"data.{s}.path={model}/world/test.json" for s in ("train", "validation.avqa")]
    data += [f"data.{s}.audio_dir={model}/world/audio" for s in ("train", "validation.avqa")]
    done = submit(cluster, "launch/grpo.yaml", f"run.dir={tmp_path}/run", *data)
    assert done.returncode != 0
    assert "no GPU at all" in done.stdout
    assert "launch/local.yaml" in done.stdout
