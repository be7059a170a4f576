"""Keeps clips and videos that are stored inside of rows as files, so that whoever decodes them opens a file.

A file is named by the digest of its content: equal clips are one file, and a later run finds what an earlier one kept.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from ssr1_rl.errors import UserError


class KeptFiles:
    """The folder that `clip_cache_dir` names, by default `~/.cache/ssr1_rl/clips`."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder) if folder else _default_folder()

    def keep(self, content: bytes) -> str:
        """Writes the content, unless it is kept already; returns the path of its file.

        Raises:
            UserError: the folder cannot be written.
        """
        digest = hashlib.blake2b(content, digest_size=20).hexdigest()
        path = self._folder / digest[:2] / digest
        try:
            # A file of another size is what a machine that lost its power left.
            if not path.is_file() or path.stat().st_size != len(content):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write(path, content)
        except OSError as error:
            raise UserError(
                f"clips that are stored inside of rows cannot be kept in {self._folder}: {error.strerror}; set the "
                "data set's clip_cache_dir to a folder with space that every node sees"
            ) from error
        return str(path)


def _write(path: Path, content: bytes) -> None:
    """Replaces the file as a whole. Two processes may write the same content at the same time, so each has its own."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's own mode shuts out other users of a shared folder
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ssr1_rl" / "clips"
