"""Try every GPU path of ssr1_rl on this machine, with small models that the program makes itself.

Each check runs in a process of its own with a time limit, so that one that crashes or hangs does not stop the others:
attention kernels against exact attention, ZeRO with and without offloading against float32, the weight sync over NCCL,
engines with CUDA graphs and tensor parallelism against the learner's log-probs. What a package or a second GPU is
missing for is "not possible", with the reason.

    python benchmarks/gpu_smoke.py                      # on a machine with GPUs, some minutes
    python benchmarks/gpu_smoke.py --only weight_sync   # some of the checks
    python benchmarks/gpu_smoke.py --device cpu         # the same checks as far as a CPU can run them

It prints a table and writes a report with machine, versions and commit as JSON. The exit status is 1 if a check failed.
It has not run on a GPU yet.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from common import PACKAGES, describe_machine, describe_versions
from gpu_checks.registry import CHECKS, Check

HERE = Path(__file__).parent
REPORT = Path("runs/gpu_smoke.json")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [check.name for check in CHECKS]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CHECK", help=", ".join(names))
    parser.add_argument("--no-engines", action="store_true", help="leave out the checks that start vLLM's engines")
    parser.add_argument("--report", type=Path, default=REPORT, help="default: %(default)s")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.device == "cuda" and not gpus():
        raise SystemExit("nvidia-smi finds no GPU here; --device cpu runs the checks as far as a CPU can")
    chosen = [c for c in CHECKS if c.name in args.only and not (args.no_engines and c.starts_engines)]
    results = []
    for check in chosen:
        print(f"{check.name}: at most {check.limit_s} s …", flush=True)
        results.append(run_check(check, args.device))
        print(f"  {results[-1]['status']} after {results[-1]['seconds']:.0f} s: {results[-1]['found']}", flush=True)
    print("\n" + table(results))
    write_report(args.report, args.device, results)
    print(f"\nreport: {args.report}")
    sys.exit(any(result["status"] == "failed" for result in results))


def run_check(check: Check, device: str, command: Sequence[str] = (sys.executable, "-m", "gpu_checks.child")) -> dict:
    """Runs one check to its end or limit; returns its name, what it shows, status, finding, seconds and last output."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "result.json", Path(folder) / "output.txt"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [*command, check.name, device, str(file)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment(device),
                start_new_session=True,
            )
        try:
            code = process.wait(check.limit_s)
            found = {"status": "failed", "found": f"its process ended with exit code {code}, without a result"}
            if file.is_file():
                found = json.loads(file.read_text())
        except subprocess.TimeoutExpired:
            found = {"status": "failed", "found": f"it was not done after {check.limit_s} s"}
        finally:
            end_group(process)
        text = output.read_text(errors="replace")
    about = {"check": check.name, "shows": check.shows, "seconds": round(time.monotonic() - started, 1)}
    return about | found | ({"output": text[-4000:]} if found["status"] == "failed" else {})


def end_group(process: subprocess.Popen) -> None:
    """Ends the check's process with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def environment(device: str) -> dict[str, str]:
    """The environment of a check: this program's, this repository's packages, quiet libraries."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    found |= {"DEEPSPEED_LOG_LEVEL": "error", "VLLM_NO_USAGE_STATS": "1"}
    if device == "cpu":
        found |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    return found


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as lines of text."""
    width = max(len(result["check"]) for result in results)
    lines = [
        f"{r['check']:{width}}  {r['status']:12}  {r['seconds']:6.0f} s  {(r['found'].splitlines() or [''])[0]}"
        for r in results
    ]
    counts = {status: sum(r["status"] == status for r in results) for status in ("passed", "failed", "not possible")}
    return "\n".join([*lines, ", ".join(f"{count} {status}" for status, count in counts.items())])


def write_report(path: Path, device: str, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes machine, versions, commit and results as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    extra = ("flash_attn", "flashinfer", "triton")
    report = {
        "program": "gpu_smoke",
        "device": device,
        "machine": describe_machine() | {"gpus": gpus()},
        "versions": describe_versions((*PACKAGES, *extra)),
        "commit": commit(),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join(["python", *sys.argv]),
        "results": list(results),
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def gpus() -> list[str]:
    """Name, memory and driver of every GPU; empty without nvidia-smi."""
    return lines_of("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")


def commit() -> str:
    """The commit of this code, with a mark if files differ from it; empty outside of git."""
    head = lines_of("git", "-C", str(HERE), "rev-parse", "HEAD")
    changed = lines_of("git", "-C", str(HERE), "status", "--porcelain", "--untracked-files=no")
    return head[0] + " with changes" * bool(changed) if head else ""


def lines_of(*command: str) -> list[str]:
    """A command's output; empty if it fails or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


if __name__ == "__main__":
    main()
