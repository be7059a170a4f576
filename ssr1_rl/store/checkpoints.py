"""Writes checkpoints so that each exists whole or not at all, and decides which are kept.

    checkpoints/step_000040/learner/…        weights and optimizer, see `trainer/learner_state.py`
    checkpoints/step_000040/controller.json  step, counters; of GRPO stream cursor, groups in flight, KL coefficient
    checkpoints/step_000040/manifest.json    step, validation score, lineage, size and checksum of every other file

A checkpoint is written under a hidden name and renamed once all of it is on disk. Only folders with exactly such a name
are looked at. A checkpoint that could not be verified is never removed.
"""

import json
import re
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from ssr1_rl.actors.in_thread import in_thread
from ssr1_rl.config.sections.watch import CheckpointConfig
from ssr1_rl.errors import UserError
from ssr1_rl.files import SetAside, set_aside_folders, step_of, sync, write_json
from ssr1_rl.store.lineage import Branch, Lineage, is_ancestor
from ssr1_rl.store.manifest import (
    MANIFEST,
    DamagedCheckpoint,
    FileIsMissing,
    Manifest,
    UnreadableCheckpoint,
    check_files,
    has_all_files,
    identity,
    read_manifest,
    write_manifest,
)

if TYPE_CHECKING:
    from ssr1_rl.data.skipped import SkipState
    from ssr1_rl.rollout.feed import FeedState

FOLDER = "checkpoints"
UNREADABLE = "unreadable"
PARTIAL = re.compile(r"\.partial_\d{6,}", re.ASCII)


class ControllerState(TypedDict):
    """Content of a GRPO run's controller.json."""

    step: int
    feed: "FeedState"
    skips: "SkipState"
    kl_coefficient: float


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        score: validation score of its policy, None if it was not validated.
        lineage: the starts that led to it; empty if it was written before they were recorded.
        revalidated: whether a resumed run has begun to validate it again.
    """

    path: Path
    step: int
    score: float | None
    lineage: tuple[Branch, ...] = ()
    revalidated: bool = False

    @property
    def learner(self) -> Path:
        """Folder of the learner's state."""
        return self.path / "learner"

    def controller_state(self) -> ControllerState:
        """Reads a GRPO run's controller.json.

        Raises:
            UnreadableCheckpoint: the file system refuses to read it.
        """
        return json.loads(self.controller_json())

    def controller_json(self) -> bytes:
        """The content of controller.json.

        Raises:
            UnreadableCheckpoint: the file system refuses to read it.
        """
        try:
            return (self.path / "controller.json").read_bytes()
        except OSError as error:
            raise UnreadableCheckpoint(f"checkpoint {self.path} could not be read: {error}") from error

    def identity(self) -> str:
        """A name of its content: the same after it was moved, copied or scored."""
        return identity(read_manifest(self.path))

    def verify(self) -> None:
        """Compares every file with the manifest.

        Raises:
            DamagedCheckpoint: a file is missing, cut short or changed, or the folder has another step's name.
            UnreadableCheckpoint: the file system refuses to read one.
        """
        manifest = read_manifest(self.path)
        if manifest["step"] != self.step:
            raise DamagedCheckpoint(
                f"checkpoint {self.path} holds step {manifest['step']}; give the folder that step's name, or another "
                "name such as backup_of_step_000040, which is left alone"
            )
        check_files(self.path, manifest)


class CheckpointStore:
    """The checkpoints of one run; those that it saves get `lineage`."""

    def __init__(self, run_dir: Path, config: CheckpointConfig, lineage: Lineage = ()) -> None:
        self._run_dir, self._folder = run_dir, run_dir / FOLDER
        self._config = config
        self._lineage = tuple(lineage)

    async def save(
        self,
        step: int,
        controller: Mapping[str, object],
        score: float | None,
        save_learner: Callable[[Path], Awaitable[None]],
    ) -> Checkpoint:
        """Writes a checkpoint of `step`, then removes those that the settings do not keep.

        `save_learner` writes the learner's state into the folder that it is given. A checkpoint of the same step that
        is already there is set aside.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        await in_thread(self._remove_partial)
        partial, final = self._folder / f".partial_{step:06d}", self._folder / f"step_{step:06d}"
        (partial / "learner").mkdir(parents=True)
        await save_learner((partial / "learner").absolute())
        write_json(partial / "controller.json", controller)
        await in_thread(write_manifest, partial, step, score, self._lineage)
        if final.exists():
            SetAside(self._run_dir, step).move(final)
        partial.rename(final)
        sync(self._folder)
        await in_thread(self._prune, step)
        return Checkpoint(final, step, score, self._lineage)

    async def add_score(self, checkpoint: Checkpoint, score: float) -> Checkpoint:
        """Writes the validation score into a checkpoint's manifest; then removes what is no longer best."""
        scored = await in_thread(self._amend, replace(checkpoint, score=score))
        await in_thread(self._prune, checkpoint.step)
        return scored

    async def begin_revalidation(self, checkpoint: Checkpoint) -> Checkpoint:
        """Notes that a resumed run validates the checkpoint, so that another resume does not try it once more."""
        return await in_thread(self._amend, replace(checkpoint, revalidated=True))

    def all(self) -> list[Checkpoint]:
        return list_checkpoints(self._run_dir)

    def best(self) -> Checkpoint | None:
        return best_of(self.all())

    def _amend(self, checkpoint: Checkpoint) -> Checkpoint:
        manifest = read_manifest(checkpoint.path)
        manifest["score"], manifest["revalidated"] = checkpoint.score, checkpoint.revalidated
        write_json(checkpoint.path / MANIFEST, manifest)
        return checkpoint

    def _prune(self, newest: int) -> None:
        """Removes only whole checkpoints, and only those that led to the one of step `newest`."""
        whole = [
            c for c in self.all() if is_ancestor(c.step, c.lineage, newest, self._lineage) and has_all_files(c.path)
        ]
        kept = whole[-self._config.keep_last :]
        best = best_of(whole)
        for checkpoint in whole:
            if checkpoint not in kept and not (self._config.keep_best and checkpoint == best):
                self._remove(checkpoint)
        self._prune_set_aside(newest, whole, best)
        self._remove_partial()

    def _prune_set_aside(self, newest: int, whole: list[Checkpoint], best: Checkpoint | None) -> None:
        """Removes what was set aside once the run is past its step and has `keep_last` checkpoints of its own.

        One with a better score than the run's best stays, and so does one that could not be verified.
        """
        for folder in set_aside_folders(self._run_dir):
            resumed_at = int(folder.name.rsplit("_", 1)[1])
            if sum(c.step > resumed_at for c in whole) < self._config.keep_last:
                continue
            for checkpoint in list_checkpoints(folder):
                is_better = best_of(c for c in (best, checkpoint) if c is not None) == checkpoint
                stays = is_better and self._config.keep_best
                if checkpoint.step <= newest and has_all_files(checkpoint.path) and not stays:
                    self._remove(checkpoint)

    def _remove(self, checkpoint: Checkpoint) -> None:
        # Renamed first: a kill leaves no checkpoint that lacks files.
        partial = checkpoint.path.with_name(f".partial_{checkpoint.step:06d}")
        shutil.rmtree(partial, ignore_errors=True)
        checkpoint.path.rename(partial)
        shutil.rmtree(partial, ignore_errors=True)

    def _remove_partial(self) -> None:
        for path in self._folder.iterdir():
            if PARTIAL.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def list_checkpoints(run_dir: Path, read: Callable[[Path], Manifest] = read_manifest) -> list[Checkpoint]:
    """Every checkpoint of a run by its step. `Checkpoint.verify` finds out whether one is damaged.

    Raises:
        UserError: the folder is a link to one that is not there, so its checkpoints are out of reach.
        UnreadableCheckpoint: the file system refuses to list the folder.
    """
    try:
        paths = _listed(run_dir / FOLDER)
    except OSError as error:
        raise UnreadableCheckpoint(f"the checkpoints of {run_dir} could not be listed: {error}") from error
    found = []
    for step, path in paths:
        try:
            manifest = read(path)
            found.append(Checkpoint(path, step, manifest["score"], tuple(manifest["lineage"]), manifest["revalidated"]))
        except (DamagedCheckpoint, UnreadableCheckpoint):
            found.append(Checkpoint(path, step, None))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _listed(folder: Path) -> list[tuple[int, Path]]:
    """The folders whose names are those of checkpoints, with their steps."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(
            f"{folder} is a link to {folder.readlink()}, which is not there; mount its disk, or remove the link if the "
            "checkpoints are not needed any more"
        )
    paths = list(folder.iterdir()) if folder.is_dir() else []
    return [(step, path) for path in paths if (step := step_of(path)) is not None and path.is_dir()]


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The checkpoint with the best validation score (the oldest of several), None if none was validated."""
    scored = [c for c in checkpoints if c.score is not None]
    return max(scored, key=lambda c: (c.score, -c.step), default=None)


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in the folder `path`.

    Raises:
        DamagedCheckpoint: there is no checkpoint, or it has no manifest.
        UnreadableCheckpoint: the file system refuses to read it.
    """
    try:
        manifest = read_manifest(path)
    except FileIsMissing as error:
        raise DamagedCheckpoint(
            f"{path} holds no checkpoint (it has no {MANIFEST}); give a folder such as RUN/checkpoints/step_000040"
        ) from error
    return Checkpoint(path, manifest["step"], manifest["score"], tuple(manifest["lineage"]), manifest["revalidated"])
