"""The ids of the trackers' runs, in the run's folder: a resumed run continues them."""

import json
import os
import threading
from pathlib import Path

IDS_FILE = "trackers.json"


class RunIds:
    """The id of each tracker's run, by the tracker's name. The file is always whole."""

    def __init__(self, run_dir: Path) -> None:
        self._path, self._lock = run_dir / IDS_FILE, threading.Lock()

    def get(self, name: str) -> str:
        """The id of a tracker's run; empty if it has none."""
        return self._read().get(name, "")

    def set(self, name: str, run_id: str) -> None:
        """Keeps an id."""
        with self._lock:
            ids = self._read() | {name: run_id}
            temporary = self._path.with_suffix(".tmp")
            with temporary.open("w") as file:
                json.dump(ids, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)

    def forget(self) -> None:
        """Removes all ids: the trackers' runs are new ones."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
