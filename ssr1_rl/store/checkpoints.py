"""Writes checkpoints so that each exists whole or not at all, and decides which are kept.

    checkpoints/step_000040/learner/…        weights and optimizer, see `trainer/learner_state.py`
    checkpoints/step_000040/controller.json  step, stream cursor, groups in flight, KL coefficient
    checkpoints/step_000040/manifest.json    step, validation score, size and checksum of every other file

A checkpoint is written under a hidden name and renamed once all of it is on disk.
"""

import asyncio
import hashlib
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    from ssr1_rl.rollout.feed import FeedState

FOLDER = "checkpoints"
PREFIX = "step_"
PARTIAL = ".partial_"


class DamagedCheckpoint(UserError):
    """A checkpoint differs from its manifest; the message names the file."""


class FileEntry(TypedDict):
    """Size and BLAKE2b checksum (hexadecimal) of one file."""

    bytes: int
    blake2b: str


class Manifest(TypedDict):
    """Content of manifest.json; `files` is by path relative to the checkpoint."""

    step: int
    score: float | None
    files: dict[str, FileEntry]


class ControllerState(TypedDict):
    """Content of controller.json."""

    step: int
    feed: "FeedState"
    kl_coefficient: float


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. `score` is the validation score of its policy, None if it was not validated."""

    path: Path
    step: int
    score: float | None

    @property
    def learner(self) -> Path:
        """Folder of the learner's state."""
        return self.path / "learner"

    def controller_state(self) -> ControllerState:
        """Reads controller.json."""
        return json.loads((self.path / "controller.json").read_text())

    def verify(self) -> None:
        """Compares every file with the manifest.

        Raises:
            DamagedCheckpoint: a file is missing, cut short or changed.
        """
        for name, entry in _manifest(self.path)["files"].items():
            file = self.path / name
            if not file.is_file():
                raise DamagedCheckpoint(f"checkpoint {self.path} is damaged: {name} is missing")
            if file.stat().st_size != entry["bytes"] or _checksum(file) != entry["blake2b"]:
                raise DamagedCheckpoint(f"checkpoint {self.path} is damaged: {name} differs from its manifest")


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, run_dir: Path, config: CheckpointConfig) -> None:
        self._folder = run_dir / FOLDER
        self._config = config

    async def save(
        self,
        step: int,
        controller: ControllerState,
        score: float | None,
        save_learner: Callable[[Path], Awaitable[None]],
    ) -> Checkpoint:
        """Writes a checkpoint of `step`, then removes those that the settings do not keep.

        `save_learner` writes the learner's state into the folder that it is given.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        for left_over in self._folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left_over)
        partial, final = self._folder / f"{PARTIAL}{step:06d}", self._folder / f"{PREFIX}{step:06d}"
        (partial / "learner").mkdir(parents=True)
        await save_learner((partial / "learner").absolute())
        (partial / "controller.json").write_text(json.dumps(controller))
        await asyncio.to_thread(_write_manifest, partial, step, score)
        if final.exists():
            os.rename(final, self._folder / f"{PARTIAL}replaced_{step:06d}")
        os.rename(partial, final)
        _sync(self._folder)
        self._prune(newest=step)
        return Checkpoint(final, step, score)

    def drop_after(self, step: int) -> None:
        """Removes checkpoints of later steps, which a run resumed from `step` repeats."""
        for checkpoint in self.all():
            if checkpoint.step > step:
                shutil.rmtree(checkpoint.path)

    def all(self) -> list[Checkpoint]:
        return list_checkpoints(self._folder.parent)

    def best(self) -> Checkpoint | None:
        return best_of(self.all())

    def _prune(self, newest: int) -> None:
        kept = {c.step for c in self.all() if c.step <= newest and _is_complete(c.path)}
        kept = set(sorted(kept)[-self._config.keep_last :])
        best = self.best()
        if self._config.keep_best and best is not None:
            kept.add(best.step)
        for checkpoint in self.all():
            if checkpoint.step not in kept:
                shutil.rmtree(checkpoint.path)
        for left_over in self._folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left_over)


def list_checkpoints(run_dir: Path) -> list[Checkpoint]:
    """Every checkpoint of a run, oldest first. `Checkpoint.verify` finds out whether one is damaged."""
    found = []
    for path in sorted((run_dir / FOLDER).glob(f"{PREFIX}*")):
        try:
            score = _manifest(path)["score"]
        except DamagedCheckpoint:
            score = None
        found.append(Checkpoint(path, int(path.name.removeprefix(PREFIX)), score))
    return found


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the best validation score (the oldest of several), None if none was validated."""
    scored = [c for c in checkpoints if c.score is not None]
    return max(scored, key=lambda c: (c.score, -c.step), default=None)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`.

    Raises:
        DamagedCheckpoint: there is no checkpoint, or its manifest cannot be read.
    """
    if not (path / "manifest.json").is_file():
        raise DamagedCheckpoint(
            f"{path} holds no checkpoint (it has no manifest.json); give a folder such as RUN/checkpoints/step_000040"
        )
    manifest = _manifest(path)
    return Checkpoint(path, manifest["step"], manifest["score"])


def _manifest(path: Path) -> Manifest:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        return {"step": manifest["step"], "score": manifest["score"], "files": manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {path} is damaged: manifest.json: {error!r}") from error


def _is_complete(path: Path) -> bool:
    """Whether every file exists with its size; checksums are not compared."""
    try:
        files = _manifest(path)["files"]
    except DamagedCheckpoint:
        return False
    return all((path / n).is_file() and (path / n).stat().st_size == e["bytes"] for n, e in files.items())


def _write_manifest(folder: Path, step: int, score: float | None) -> None:
    files: dict[str, FileEntry] = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "blake2b": _checksum(file)}
        _sync(file)
    manifest: Manifest = {"step": step, "score": score, "files": files}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    _sync(folder / "manifest.json")
    _sync(folder)


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: Path) -> None:
    """Waits until a file's bytes, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
