"""The folder of one run: who may write there, where it resumes from, and its settings on paper.

config.yaml      the resolved settings
metrics.jsonl    one line per step and validation
samples/         every step's completions with their rewards (Parquet)
checkpoints/     see `ssr1_rl.store.checkpoints`
skipped.jsonl    questions that could not be used
summary.json     figures of the finished run
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ssr1_rl.config.load import config_to_yaml
from ssr1_rl.config.schema import Config, ConfigError, LoraConfig
from ssr1_rl.store.checkpoints import Checkpoint, CheckpointStore, DamagedCheckpoint, open_checkpoint


class RunFolderInUse(RuntimeError):
    """Another process is running in the same folder."""


@contextlib.contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Holds the folder for this process.

    Raises:
        RunFolderInUse: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderInUse(
                f"another process is running in {run_dir}; wait for it, stop it, or set run.dir or run.name"
            ) from None
        yield


def find_resume(config: Config) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that `run.resume` means (None: from the start), and notes for the user.

    Raises:
        ConfigError: the folder holds a run and `run.resume` is "never".
        DamagedCheckpoint: the checkpoint that is named cannot be read, or no whole one is left.
    """
    store = CheckpointStore(Path(config.run.dir), config.checkpoint)
    if config.run.resume == "never":
        _refuse_a_run(config, store)
        return None, []
    if config.run.resume != "auto":
        checkpoint = open_checkpoint(Path(config.run.resume))
        checkpoint.verify()
        return checkpoint, []
    notes = []
    for checkpoint in reversed(store.all()):
        try:
            checkpoint.verify()
        except DamagedCheckpoint as error:
            notes.append(f"{error}; trying an older one")
            continue
        return checkpoint, notes
    if notes:
        raise DamagedCheckpoint(f"{notes[-1]}: none is left. Remove {config.run.dir}/checkpoints to start anew")
    return None, []


def check_resume(config: Config) -> None:
    """Refuses what `run.resume` cannot go on from, as far as can be told without reading checksums.

    Raises:
        ConfigError: the folder holds a run and `run.resume` is "never", or the checkpoint has other LoRA adapters.
        DamagedCheckpoint: there is no checkpoint where `run.resume` says.
    """
    store = CheckpointStore(Path(config.run.dir), config.checkpoint)
    if config.run.resume == "never":
        _refuse_a_run(config, store)
        return
    try:
        checkpoints = store.all()[-1:] if config.run.resume == "auto" else [open_checkpoint(Path(config.run.resume))]
    except DamagedCheckpoint as error:
        raise DamagedCheckpoint(f"run.resume={config.run.resume}: {error}") from error
    for checkpoint in checkpoints:
        _refuse_other_adapters(checkpoint, config.model.lora)


def _refuse_a_run(config: Config, store: CheckpointStore) -> None:
    if store.all() or (Path(config.run.dir) / "metrics.jsonl").exists():
        raise ConfigError(
            f"run.resume=never, but {config.run.dir} holds a run; "
            "set run.resume=auto to go on with it, or another run.name or run.dir"
        )


def _refuse_other_adapters(checkpoint: Checkpoint, lora: LoraConfig) -> None:
    try:
        before = json.loads((checkpoint.learner / "learner.json").read_text())["lora"]
    except (OSError, ValueError, KeyError):
        return  # damaged: `find_resume` says so, and may find an older one
    now = {"rank": lora.rank, "alpha": lora.alpha} if lora.rank else None
    if before != now:
        mend = (
            f"model.lora.rank={before['rank']} model.lora.alpha={before['alpha']:g}" if before else "model.lora.rank=0"
        )
        raise ConfigError(
            f"checkpoint {checkpoint.path} was written with model.lora {before or 'off'}, which now is {now or 'off'}; "
            f"set {mend}, or another run.dir"
        )


def write_config(config: Config) -> list[str]:
    """Writes config.yaml; returns what differs from the settings that the folder's run had before."""
    path = Path(config.run.dir) / "config.yaml"
    text = config_to_yaml(config)
    changes = []
    if path.exists():
        before, now = _flat(yaml.safe_load(path.read_text())), _flat(yaml.safe_load(text))
        changes = [
            f"{name}: {before.get(name)!r} before, {now.get(name)!r} now"
            for name in sorted(before.keys() | now.keys())
            if before.get(name) != now.get(name)
        ]
    path.write_text(text)
    return changes


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, inner in items for k, v in _flat(inner, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}
