"""manifest.json of a checkpoint: its step, its score, where it comes from, and a checksum of every other file."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TypedDict, TypeVar

from ssr1_rl.errors import RunError, UserError
from ssr1_rl.files import sync, write_json
from ssr1_rl.store.lineage import Branch, Lineage

R = TypeVar("R")

MANIFEST = "manifest.json"
READ_PAUSES_S = (1.0, 4.0, 15.0)
"""Pauses before a read that failed is tried again: network file systems fail for moments."""
NUM_THREADS = min(8, os.cpu_count() or 1)
"""Threads that compute checksums. hashlib releases the interpreter's lock, so they run side by side."""


class DamagedCheckpoint(UserError):
    """A checkpoint differs from its manifest; the message names the file."""


class FileIsMissing(DamagedCheckpoint):
    """A file of a checkpoint is not there, or not yet: a network file system may list it some seconds later."""


class UnreadableCheckpoint(RunError):
    """A checkpoint could not be read although its files are there; it may be whole."""


class FileEntry(TypedDict):
    """Size and BLAKE2b checksum (hexadecimal) of one file."""

    bytes: int
    blake2b: str


class Manifest(TypedDict):
    """Content of manifest.json; `files` is by path relative to the checkpoint."""

    step: int
    score: float | None
    files: dict[str, FileEntry]
    lineage: list[Branch]
    revalidated: bool  # whether a resumed run has begun to validate it again


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of the checkpoint in a folder.

    Raises:
        FileIsMissing: there is none.
        DamagedCheckpoint: it is no manifest.
        UnreadableCheckpoint: the file system refuses to read it.
    """
    path = checkpoint / MANIFEST
    try:
        found = json.loads(path.read_bytes())
        return {
            "step": int(found["step"]),
            "score": None if found["score"] is None else float(found["score"]),
            "files": {str(name): {"bytes": e["bytes"], "blake2b": e["blake2b"]} for name, e in found["files"].items()},
            "lineage": list(found.get("lineage", [])),
            "revalidated": bool(found.get("revalidated", False)),
        }
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileIsMissing(f"checkpoint {checkpoint} is damaged: {MANIFEST} is missing") from error
    except OSError as error:
        raise UnreadableCheckpoint(f"checkpoint {checkpoint} could not be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpoint(f"checkpoint {checkpoint} is damaged: {MANIFEST}: {error!r}") from error


def write_manifest(checkpoint: Path, step: int, score: float | None, lineage: Lineage) -> None:
    """Computes the checksum of every file in the folder, waits until all are on disk, and writes the manifest."""
    paths = sorted(p for p in checkpoint.rglob("*") if p.is_file())
    for folder in {path.parent for path in paths}:
        sync(folder)
    sums = _in_threads(_synced_checksum, paths)
    files: dict[str, FileEntry] = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "blake2b": digest}
        for path, digest in zip(paths, sums, strict=True)
    }
    manifest: Manifest = {"step": step, "score": score, "files": files, "lineage": [*lineage], "revalidated": False}
    write_json(checkpoint / MANIFEST, manifest)


def check_files(checkpoint: Path, manifest: Manifest) -> None:
    """Compares every file with the manifest.

    Raises:
        FileIsMissing: a file is missing.
        DamagedCheckpoint: a file is cut short or changed.
        UnreadableCheckpoint: the file system refuses to read one.
    """
    names = list(manifest["files"])
    try:
        for name, entry in manifest["files"].items():
            if (checkpoint / name).stat().st_size != entry["bytes"]:
                raise DamagedCheckpoint(f"checkpoint {checkpoint} is damaged: {name} differs from its manifest")
        sums = _in_threads(checksum, [checkpoint / name for name in names])
    except (FileNotFoundError, NotADirectoryError) as error:
        name = Path(error.filename).relative_to(checkpoint)
        raise FileIsMissing(f"checkpoint {checkpoint} is damaged: {name} is missing") from error
    except OSError as error:
        raise UnreadableCheckpoint(f"checkpoint {checkpoint} could not be read: {error}") from error
    for name, digest in zip(names, sums, strict=True):
        if digest != manifest["files"][name]["blake2b"]:
            raise DamagedCheckpoint(f"checkpoint {checkpoint} is damaged: {name} differs from its manifest")


def has_all_files(checkpoint: Path) -> bool:
    """Whether every file exists with its size; checksums are not compared."""
    try:
        files = read_manifest(checkpoint)["files"]
        return all(
            (checkpoint / n).is_file() and (checkpoint / n).stat().st_size == e["bytes"] for n, e in files.items()
        )
    except (DamagedCheckpoint, UnreadableCheckpoint, OSError):
        return False


def identity(manifest: Manifest) -> str:
    """A name of the checkpoint's content: the same after it was moved, copied or scored."""
    sums = sorted((name, entry["blake2b"]) for name, entry in manifest["files"].items())
    return hashlib.blake2b(json.dumps([manifest["step"], sums]).encode(), digest_size=16).hexdigest()


def patiently(read: Callable[[], R]) -> R:
    """Calls `read` again, after pauses, while the file system fails or lacks a file; raises its last error."""
    for pause_s in READ_PAUSES_S:
        try:
            return read()
        except (UnreadableCheckpoint, FileIsMissing):
            time.sleep(pause_s)
    return read()


def checksum(file: Path) -> str:
    """BLAKE2b of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _synced_checksum(file: Path) -> str:
    digest = checksum(file)
    sync(file)
    return digest


def _in_threads(function: Callable[[Path], str], paths: Sequence[Path]) -> list[str]:
    """The results in order. After an error or Ctrl-C the threads begin no other file, and do not keep the process.

    (Those of a `ThreadPoolExecutor` would: Python waits at its end for the files that they have begun.)
    """
    left = iter(list(enumerate(paths)))  # `next` of a list's iterator is atomic
    ended: SimpleQueue[tuple[int, str | BaseException]] = SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        for index, path in left:
            if stopped.is_set():
                return
            try:
                ended.put((index, function(path)))
            except BaseException as error:  # raised below
                ended.put((index, error))

    for _ in range(min(NUM_THREADS, len(paths))):
        threading.Thread(target=work, name=function.__name__, daemon=True).start()
    results = [""] * len(paths)
    try:
        for _ in paths:
            index, result = ended.get()
            if isinstance(result, BaseException):
                raise result
            results[index] = result
    finally:
        stopped.set()
    return results
