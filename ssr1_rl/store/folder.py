"""The folder of one run: its lock, and its settings as a file.

config.yaml      the settings of the last start that succeeded, every default included
trackers.json    the ids of the trackers' runs
metrics.jsonl    one line per step and validation; the same figures in tensorboard/
samples/         every step's completions with their rewards (Parquet)
checkpoints/     see `ssr1_rl.store.checkpoints`
skipped.jsonl    questions that could not be used
set_aside/       what a start did not continue from, see `ssr1_rl.store.resume`
summary.json     figures of the finished run
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import changes, config_to_yaml
from ssr1_rl.config.yaml_text import read_plain
from ssr1_rl.errors import ConfigError, UserError, named_by_the_user
from ssr1_rl.files import SetAside, lock, write_text

CONFIG = "config.yaml"
OF_THE_RUN = (CONFIG, "summary.json", "trackers.json")


class RunFolderInUse(UserError):
    """Another process is running in the same folder."""


@contextlib.contextmanager
def claim(run_dir: Path, option: str = "run.dir") -> Iterator[None]:
    """Makes the folder if it is not there, and locks it for this process if its file system has locks.

    Raises:
        RunFolderInUse: another process has locked it.
        UserError: it cannot be made; the message names `option`, which gave the path.
    """
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{option} {run_dir} is a file, so no run can keep its files there; give another path")
    with named_by_the_user(option, run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / ".lock").touch()
    with (run_dir / ".lock").open("a") as file:
        if not lock(file.fileno()):
            raise RunFolderInUse(
                f"another process is running in {run_dir}; wait for it, stop it, or change run.dir or run.name"
            )
        yield


def changed_settings(config: Config) -> list[str]:
    """A line for each setting that differs from config.yaml, which an earlier start of the run has written."""
    path = Path(config.run.dir) / CONFIG
    if not path.exists():
        return []
    before = _read(path)
    if before is None:
        return [f"{path} holds no settings, so nothing is compared with it; it is set aside once the run has started"]
    return [f"changed setting: {line}" for line in changes(before, config_to_yaml(config))]


def write_config(config: Config, aside: SetAside) -> None:
    """Replaces config.yaml, for a start that has succeeded: an export takes the base model from it.

    Only its owner may read it, because a literal key in the settings is in the file too. A file that holds no settings
    is set aside.
    """
    path = Path(config.run.dir) / CONFIG
    if path.exists() and _read(path) is None:
        aside.move(path)
    write_text(path, config_to_yaml(config), mode=0o600)


def set_identity_aside(run_dir: Path, aside: SetAside) -> None:
    """Sets aside the files that belong to a run as a whole, for a start whose folder holds another run.

    They go where the run's metrics and checkpoints went, so that an export finds its base model there. If none of these
    were set aside, there was no other run.
    """
    if aside.folder:
        for name in OF_THE_RUN:
            if (run_dir / name).exists():
                aside.move(run_dir / name)


def _read(path: Path) -> str | None:
    """The text of a file of settings, None if there are none in it."""
    try:
        text = path.read_text()
        return text if isinstance(read_plain(text), dict) else None
    except (OSError, UnicodeDecodeError, ConfigError):
        return None
