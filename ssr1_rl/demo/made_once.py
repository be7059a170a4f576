"""Makes a folder of generated data once: whole or not at all, and never over something else."""

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

STAMP = "world.json"
"""File of a folder's settings. It is written last, so a folder with this file is complete."""


def make_once(folder: Path, settings: "DataclassInstance", what: str, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a folder beside `folder`, then renames it into place. Waits while another process does so.

    Nothing is done if `folder` holds the same already. An interrupted one is made again.

    Args:
        settings: what the folder's content depends on.
        what: the content's name, for error messages.
        write: fills the empty folder that it is given; `write_stamp` comes last.

    Raises:
        UserError: `folder` holds something else, or the same with other settings.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _is_made(folder, settings, what):
            partial = folder.parent / f".{folder.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial)
            partial.replace(folder)


def write_stamp(folder: Path, settings: "DataclassInstance") -> None:
    """Marks a folder as complete."""
    (folder / STAMP).write_text(json.dumps(dataclasses.asdict(settings), indent=1))


def _is_made(folder: Path, settings: "DataclassInstance", what: str) -> bool:
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"{folder} is a file, not a {what}; choose another folder")
    if not any(folder.iterdir()):
        return False
    stamp = folder / STAMP
    if not stamp.is_file():
        raise UserError(f"{folder} is not empty and holds no {what}; choose another folder")
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    try:
        found = dict(json.loads(stamp.read_bytes()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{stamp} is not the stamp of a {what} ({error}); choose another folder") from error
    if found != wanted:
        names = ", ".join(sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)))
        raise UserError(f"{folder} holds a {what} with other settings ({names}); choose another folder or delete it")
    return True
