"""Runs one check and writes its result: python -m gpu_checks.child NAME DEVICE FILE."""

import importlib
import json
import sys
import traceback
from pathlib import Path

from gpu_checks.registry import CHECKS, NotPossible


def main(name: str, device: str, file: str) -> None:
    """Writes {"status", "found"} to `file`."""
    [check] = [check for check in CHECKS if check.name == name]
    try:
        result = {
            "status": "passed",
            "found": importlib.import_module(f"gpu_checks.{check.module}").run(device, **check.options),
        }
    except NotPossible as reason:
        result = {"status": "not possible", "found": str(reason)}
    except Exception as error:
        traceback.print_exc()
        result = {"status": "failed", "found": f"{type(error).__name__}: {error}"}
    Path(file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
