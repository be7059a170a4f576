"""Finds the files of clips by the names in a data set, and says what is there instead if one is missing."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.types import AudioRef

MISSING = "missing clip"
"""`kind` of the error of a row whose clip is not there."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class ClipFolder:
    """The folder of a data set's clips: `audio_dir`, or else the folder of its file of questions.

    A name may also be an absolute path, or leave the folder (`../other/a.wav`): manifests of users do.
    """

    def __init__(self, config: DatasetConfig) -> None:
        self.path = Path(config.audio_dir) if config.audio_dir else Path(config.path).parent
        self._prefix = str(self.path)
        self._questions = Path(config.path)
        self._num_missing = 0
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: object, field: str) -> AudioRef:
        """The clip at a path relative to the folder.

        Raises:
            RowError: there is no such file.
        """
        if not isinstance(name, str) or not name.strip():
            raise RowError(field, f"expected the path of a clip, got {shown(name)}", "no path of a clip")
        if _ADDRESS.match(name):
            raise RowError(field, f"{shown(name)} is an address; download the clip and give its path", "an address")
        # One spelling for each file, because clips are kept by their path. Path() is slow where it has nothing to do.
        joined = str(self.path / name) if "./" in name or "//" in name else os.path.join(self._prefix, name)
        if os.path.isfile(joined):
            return AudioRef(joined)
        path = Path(joined)
        same = self.listing(path.parent).get(normal_form(path.name), [])
        if len(same) == 1 and (path.parent / same[0]).is_file():
            return AudioRef(str(path.parent / same[0]))
        raise self.missing(f"no such file: {str(path)!r}", name, field)

    def listing(self, folder: Path) -> dict[str, list[str]]:
        """The files of a folder by the normal form of their names, read once; empty if it cannot be read."""
        if folder not in self._listings:
            by_normal: dict[str, list[str]] = {}
            for name in _names(folder):
                by_normal.setdefault(normal_form(name), []).append(name)
            self._listings[folder] = by_normal
        return self._listings[folder]

    def missing(self, reason: str, name: str, field: str) -> RowError:
        """The error for a clip that is not there. The first one says where the clips are, if that can be seen."""
        self._num_missing += 1
        return RowError(field, reason + (self._hint(name) if self._num_missing == 1 else ""), MISSING)

    def _hint(self, name: str) -> str:
        path = self.path / name
        if path.is_dir():
            return "; that is a folder"
        folded = path.name.casefold()
        near = next((other for other in _names(path.parent) if other.casefold() == folded), None)
        if near:
            return f"; there is {near!r}, which differs only in capital letters"
        if "\\" in name and (self.path / name.replace("\\", "/")).is_file():
            return "; write the path with / instead of \\"
        if not Path(name).is_absolute():
            for folder in (self._questions.parent, self.path.parent, Path.cwd(), *_folders_in(self._questions.parent)):
                if (folder / name).is_file():
                    return f"; it is in {folder}: set the data set's audio_dir to that"
        if (self.path / path.name).is_file():
            return f"; {self.path} holds {path.name!r} without its folder: set audio_dir to the folder above, or cut it"
        return ""


def normal_form(name: str) -> str:
    """A file name in one of the forms in which file systems keep accents: macOS writes NFD, most others NFC."""
    return unicodedata.normalize("NFC", name)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder)]
    except (OSError, ValueError):
        return []


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())[:50]
    except OSError:
        return []
