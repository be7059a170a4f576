"""The checkpoint that a start continues from, found and verified before anything in the run's folder is changed.

`run.resume=auto` takes the newest whole checkpoint in the folder. `run.resume=PATH` takes that checkpoint the first
time. From then on the folder holds checkpoints that descend from this start, and the newest of them is taken, so that
the same command continues after a preemption. What the run does not continue from is set aside once it has resumed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.sections.model import LoraConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.data.stream import QuestionStream
from ssr1_rl.errors import ConfigError, UserError
from ssr1_rl.files import SetAside
from ssr1_rl.store.checkpoints import UNREADABLE, Checkpoint, list_checkpoints, open_checkpoint
from ssr1_rl.store.lineage import Branch, is_ancestor, new_branch, was_named
from ssr1_rl.store.manifest import DamagedCheckpoint, UnreadableCheckpoint, has_all_files, patiently, read_manifest


@dataclass(frozen=True)
class Resume:
    """Where a run starts.

    Attributes:
        checkpoint: None for a start from the beginning.
        lineage: of the checkpoints that the run will write.
        notes: sentences about what was chosen.
        unreadable: checkpoints that were tried and could not be used.
    """

    checkpoint: Checkpoint | None
    lineage: tuple[Branch, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[Path, ...] = ()

    @property
    def step(self) -> int:
        """The step that the run starts at."""
        return self.checkpoint.step if self.checkpoint else 0

    def leads_here(self, checkpoint: Checkpoint) -> bool:
        """Whether the run continues from this checkpoint of its folder, or from one that it led to."""
        here = self.checkpoint
        if here is None:
            return False
        if checkpoint.path.resolve() == here.path.resolve():
            return True
        is_local = checkpoint.path.resolve().parent == here.path.resolve().parent
        if not is_local and not checkpoint.lineage:
            return False  # written before lineages were recorded, and perhaps by another run
        return checkpoint.path not in self.unreadable and is_ancestor(
            checkpoint.step, checkpoint.lineage, here.step, self.lineage
        )

    def kept_step(self, run_dir: Path) -> int:
        """The step up to which the folder's metrics and samples belong to this run; -1 if none do.

        Those of a checkpoint from elsewhere end at the last one in the folder that led to it.
        """
        ancestors = [c for c in list_checkpoints(run_dir) if self.leads_here(c)]
        return max((c.step for c in ancestors), default=-1)

    def set_checkpoints_aside(self, run_dir: Path, aside: SetAside) -> None:
        """Renames each checkpoint of the folder that does not lead here, the newest first."""
        for checkpoint in reversed(list_checkpoints(run_dir)):
            if not self.leads_here(checkpoint):
                usable = checkpoint.path not in self.unreadable and has_all_files(checkpoint.path)
                aside.move(checkpoint.path, "" if usable else UNREADABLE)


def find_resume(run: RunConfig) -> Resume:
    """Finds the checkpoint that `run.resume` selects, and verifies it. Changes nothing.

    Raises:
        ConfigError: the folder holds a run and `run.resume` is "never".
        DamagedCheckpoint: the checkpoint that `run.resume` names is damaged, or all checkpoints in the folder are.
        UnreadableCheckpoint: the file system does not let the named checkpoint, or any, be read.
    """
    if run.resume == "never":
        _refuse_existing_run(run)
        return Resume(None, (new_branch(),))
    if run.resume != "auto":
        return _named(run)
    found, notes, unreadable, error = _newest_whole(patiently(lambda: list_checkpoints(Path(run.dir))))
    if found is None and error is not None:
        folder = Path(run.dir) / "checkpoints"
        raise type(error)(f"{error}: none is left. Move {folder} away to start from the beginning") from error
    lineage = found.lineage if found else (new_branch(),)
    return Resume(found, lineage, notes, unreadable)


def check_resume(run: RunConfig, lora: LoraConfig) -> None:
    """Checks that the run can be resumed as `run.resume` says, without comparing checksums.

    Raises:
        ConfigError: the folder holds a run and `run.resume` is "never", or the checkpoint has other LoRA adapters.
        DamagedCheckpoint: `run.resume` is not the path of a checkpoint.
    """
    if run.resume == "never":
        _refuse_existing_run(run)
        return
    try:
        newest = patiently(lambda: list_checkpoints(Path(run.dir))) if run.resume == "auto" else _descendants(run)
        checkpoints = newest[-1:]
        if run.resume != "auto" and not checkpoints:
            checkpoints = [open_checkpoint(Path(run.resume))]
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"run.resume={run.resume}: {error}") from error
    for checkpoint in checkpoints:
        _refuse_other_adapters(checkpoint, lora)


def check_data(checkpoint: Checkpoint, stream: QuestionStream) -> None:
    """Checks that a run on these questions can continue the checkpoint's order of questions.

    Raises:
        UserError: the training data or the seed is another one; the message gives both values.
    """
    try:
        controller = patiently(checkpoint.controller_state)
        state = None if "sft" in controller else controller["feed"]["stream"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"checkpoint {checkpoint.path} is damaged: controller.json: {error!r}") from error
    if state is None:
        raise UserError(
            f"checkpoint {checkpoint.path} is one of SFT, which GRPO does not resume; set model.path to the folder "
            "that SFT has exported (export/ in its run.dir), and another run.dir"
        )
    try:
        stream.load_state_dict(state)
    except ValueError as error:
        raise UserError(f"checkpoint {checkpoint.path} cannot be resumed: {error}") from error


def _named(run: RunConfig) -> Resume:
    path = Path(run.resume)
    found, notes, unreadable, _ = _newest_whole(_descendants(run))
    if found is not None:
        here = (
            f"run.resume={run.resume}: {run.dir} already holds steps that were resumed from it; resuming from the "
            f"newest, {found.path}. To start from {run.resume} once more, set another run.dir"
        )
        return Resume(found, found.lineage, (*notes, here), unreadable)
    checkpoint = patiently(lambda: open_checkpoint(path))
    patiently(checkpoint.verify)
    branch = new_branch(checkpoint.step, path, checkpoint.identity())
    return Resume(checkpoint, (*checkpoint.lineage, branch), notes, unreadable)


def _descendants(run: RunConfig) -> list[Checkpoint]:
    """The checkpoints in the run's folder that an earlier start with the same `run.resume` led to, by step."""
    path = Path(run.resume)
    try:
        identity = patiently(lambda: open_checkpoint(path).identity())
    except DamagedCheckpoint:
        identity = ""  # it may have been removed since, as one of the oldest
    found = patiently(lambda: list_checkpoints(Path(run.dir), lambda folder: patiently(lambda: read_manifest(folder))))
    return [c for c in found if was_named(c.lineage, path, identity)]


def _newest_whole(
    checkpoints: Sequence[Checkpoint],
) -> tuple[Checkpoint | None, tuple[str, ...], tuple[Path, ...], DamagedCheckpoint | UnreadableCheckpoint | None]:
    """The newest checkpoint that can be used; a note on each newer one, its path, and the last error."""
    notes: list[str] = []
    unreadable: list[Path] = []
    last: DamagedCheckpoint | UnreadableCheckpoint | None = None
    for checkpoint in reversed(checkpoints):
        try:
            patiently(checkpoint.verify)
            # Read again: the listing may have failed to read its manifest.
            return patiently(_reader(checkpoint.path)), tuple(notes), tuple(unreadable), None
        except (DamagedCheckpoint, UnreadableCheckpoint) as error:
            notes.append(f"{error}; trying an older one. It is kept, in set_aside/ once the run has resumed")
            unreadable.append(checkpoint.path)
            last = error
    return None, tuple(notes), tuple(unreadable), last


def _reader(path: Path) -> Callable[[], Checkpoint]:
    return lambda: open_checkpoint(path)


def _refuse_existing_run(run: RunConfig) -> None:
    folder = Path(run.dir)
    if list_checkpoints(folder) or (folder / "metrics.jsonl").exists():
        raise ConfigError(
            f"run.resume=never, but {folder} holds a run; "
            "set run.resume=auto to resume it, or set another run.name or run.dir"
        )


def _refuse_other_adapters(checkpoint: Checkpoint, lora: LoraConfig) -> None:
    try:
        before = json.loads((checkpoint.learner / "learner.json").read_text())["lora"]
    except (OSError, ValueError, KeyError):
        return  # damaged: `find_resume` reports it and tries an older one
    now = {"rank": lora.rank, "alpha": lora.alpha} if lora.rank else None
    if before != now:
        settings = (
            f"model.lora.rank={before['rank']} model.lora.alpha={before['alpha']:g}" if before else "model.lora.rank=0"
        )
        raise ConfigError(
            f"checkpoint {checkpoint.path} was written with model.lora {before or 'off'}, but this run has "
            f"{now or 'off'}; set {settings}, or another run.dir"
        )
