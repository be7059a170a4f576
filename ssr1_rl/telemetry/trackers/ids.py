"""The ids of the trackers' runs, in the run's folder: a resumed run continues them."""

import json
import threading
from pathlib import Path

from ssr1_rl.files import write_json

IDS_FILE = "trackers.json"


class RunIds:
    """The id of each tracker's run, by the tracker's name.

    Args:
        run_dir: the run's folder.
        continues: whether the ids of an earlier start are used. Else the file is replaced when the first id is set.
    """

    def __init__(self, run_dir: Path, continues: bool = True) -> None:
        self._path, self._lock = run_dir / IDS_FILE, threading.Lock()
        self._ids = self._read() if continues else {}

    def get(self, name: str) -> str:
        """The id of a tracker's run; empty if it has none."""
        return self._ids.get(name, "")

    def set(self, name: str, run_id: str) -> None:
        """Keeps an id."""
        with self._lock:
            self._ids[name] = run_id
            write_json(self._path, self._ids)

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return {}
        return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
