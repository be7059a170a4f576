"""The folder of one run: its lock, the checkpoint that the run resumes from, and its settings as a file.

config.yaml      the settings, every default included
trackers.json    the ids of the trackers' runs
metrics.jsonl    one line per step and validation; the same figures in tensorboard/
samples/         every step's completions with their rewards (Parquet)
checkpoints/     see `ssr1_rl.store.checkpoints`
skipped.jsonl    questions that could not be used
summary.json     figures of the finished run
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.model import LoraConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.written import changes, config_to_yaml
from ssr1_rl.errors import ConfigError
from ssr1_rl.store.checkpoints import Checkpoint, DamagedCheckpoint, list_checkpoints, open_checkpoint


class RunFolderInUse(RuntimeError):
    """Another process is running in the same folder."""


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Locks the folder for this process; raises `RunFolderInUse` if another one has locked it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderInUse(
                f"another process is running in {run_dir}; wait for it, stop it, or change run.dir or run.name"
            ) from None
        yield


def find_resume(run: RunConfig) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `run.resume` selects (None: start from the beginning), and a note on each damaged one.

    Raises:
        ConfigError: the folder holds a run and `run.resume` is "never".
        DamagedCheckpoint: the checkpoint that `run.resume` names is damaged, or all checkpoints in the folder are.
    """
    if run.resume == "never":
        _refuse_existing_run(run)
        return None, []
    if run.resume != "auto":
        checkpoint = open_checkpoint(Path(run.resume))
        checkpoint.verify()
        return checkpoint, []
    notes = []
    for checkpoint in reversed(list_checkpoints(Path(run.dir))):
        try:
            checkpoint.verify()
        except DamagedCheckpoint as error:
            notes.append(f"{error}; trying an older one")
            continue
        return checkpoint, notes
    if notes:
        raise DamagedCheckpoint(f"{notes[-1]}: none is left. Remove {run.dir}/checkpoints to start from the beginning")
    return None, []


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
        checkpoints = (
            list_checkpoints(Path(run.dir))[-1:] if run.resume == "auto" else [open_checkpoint(Path(run.resume))]
        )
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"run.resume={run.resume}: {error}") from error
    for checkpoint in checkpoints:
        _refuse_other_adapters(checkpoint, lora)


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


def write_config(config: Config) -> list[str]:
    """Writes config.yaml; returns a line for each setting that differs from the file it replaces."""
    path = Path(config.run.dir) / "config.yaml"
    text = config_to_yaml(config)
    found = changes(path.read_text(), text) if path.exists() else []
    temporary = path.with_suffix(".tmp")
    # Only for its owner: a literal key in the settings is in the file too.
    with open(temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return found
