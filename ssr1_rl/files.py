"""Changes files so that a kill loses nothing: files are replaced whole, folders appear whole, the rest is set aside.

Settings and state that a later start reads are written by `write_text`, `write_json` or `replacing`; logs of rows, such
as metrics.jsonl, are appended to. What a resumed or restarted run does not continue from is renamed into a folder of
`run_dir/set_aside/`. A run deletes nothing there but checkpoints, once it has newer ones (`CheckpointStore`).
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ssr1_rl.errors import UserError

SET_ASIDE = "set_aside"
SET_ASIDE_NAME = re.compile(r"\d{3,}_at_step_\d{6,}")
PARTIAL = ".partial"


def step_of(path: Path, ending: str = "") -> int | None:
    """The step in a name such as step_000040 (and its `ending`), None for any other name."""
    match = re.fullmatch(r"step_(\d{6,})" + re.escape(ending), path.name, re.ASCII)
    return int(match[1]) if match else None


def sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: Path, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Opens a file beside `path` that takes its place at the end; after an error or a kill `path` is as before."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Replaces the file's content as a whole. `mode` are the permissions of a new file, less the umask."""
    with replacing(path, mode) as file:
        file.write(text.encode())


def write_json(path: Path, value: object) -> None:
    """Replaces the file's content by `value` as JSON."""
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """A folder inside `output` to write into; its files move up at the end, config.json last.

    So a loader finds either all files or no config.json. What a killed process left in the inner folder is removed.

    Raises:
        UserError: `output` is a file, holds anything else, or another process writes into it.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output} is a file; give a new or empty folder")
    is_new = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    with _locked(output):
        if any(path.name != PARTIAL for path in output.iterdir()):
            raise UserError(f"{output} is not empty; remove it or write to another folder")
        partial = output / PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            if is_new:
                with contextlib.suppress(OSError):  # something else may have been put there; the first error matters
                    output.rmdir()
            raise
        for path in sorted(partial.iterdir(), key=lambda path: (path.name == "config.json", path.name)):
            path.rename(output / path.name)
        partial.rmdir()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise UserError(f"another process is writing into {folder}; wait for it, or give another folder")
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool:
    """Locks an open file or folder until it is closed; False if another process has locked it.

    On a file system without locks (some network file systems) nothing is locked, and nobody is refused.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


class SetAside:
    """Where a start puts what it does not continue from: `run_dir/set_aside/001_at_step_000040`, made when first used.

    Args:
        step: the step that the run starts at.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self._run_dir, self._step = run_dir, step
        self._folder: Path | None = None

    @property
    def folder(self) -> Path | None:
        """The folder, None if nothing was set aside."""
        return self._folder

    def move(self, path: Path, under: str = "") -> Path:
        """Renames a file or folder of the run; it keeps its place below the run's folder, or goes to `under`."""
        target = self._make() / (under or path.parent.relative_to(self._run_dir)) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.rename(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The folder of `path` is a link to another disk: the file stays there, in a folder of the same name.
            target = path.parent / SET_ASIDE / self._make().name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
        return target

    def write(self, name: str, content: bytes) -> None:
        """Writes a file of what is taken out of one that stays."""
        with replacing(self._make() / name) as file:
            file.write(content)

    def _make(self) -> Path:
        if self._folder is None:
            parent = self._run_dir / SET_ASIDE
            parent.mkdir(parents=True, exist_ok=True)
            used = [int(path.name.split("_")[0]) for path in set_aside_folders(self._run_dir)]
            self._folder = parent / f"{max(used, default=0) + 1:03d}_at_step_{self._step:06d}"
            self._folder.mkdir()
        return self._folder


def set_aside_folders(run_dir: Path) -> list[Path]:
    """Every folder that a start of this run has set something aside in, the oldest first."""
    parent = run_dir / SET_ASIDE
    found = [p for p in parent.iterdir() if SET_ASIDE_NAME.fullmatch(p.name)] if parent.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.split("_")[0]))
