"""A folder of clips or videos, in which the names in a data set find files: never outside of it, unless that is set.

Names come from files that others made. `..`, absolute paths and addresses in them are refused by what they say, before
anything is opened; symbolic links inside the folder are the user's own and are followed.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.row_error import RowError, shown

OUTSIDE = "path outside"
"""`kind` of the error of a row whose clip or video is outside of its folder."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


class DataFolder:
    """The folder that a setting names.

    Args:
        config: the data set.
        setting: the name of its setting, for error messages.
        path: the folder itself.
        also: further folders that absolute paths may lead into.

    Attributes:
        path: the folder.
    """

    what, missing_kind = "file", "missing file"

    def __init__(self, config: DatasetConfig, setting: str, path: Path, also: Sequence[Path] = ()) -> None:
        self.path = path
        self._setting = setting
        self._prefix, self._absolute = str(path), os.path.abspath(path)
        self._roots = tuple(os.path.join(os.path.abspath(root), "") for root in (path, *also))
        self._may_leave = config.allow_outside_paths
        self._questions = Path(config.path)
        self._num_missing = 0
        self._listings: dict[str, dict[str, list[str]]] = {}
        self._by_stem: dict[str, dict[str, str]] = {}

    def locate(self, name: object, field: str) -> str:
        """The path that a name stands for, whether there is a file or not.

        Raises:
            RowError: it is no path, an address, or leads outside.
        """
        if not isinstance(name, str) or not name.strip():
            raise RowError(field, f"expected the path of a {self.what}, got {shown(name)}", f"no path of a {self.what}")
        if _ADDRESS.match(name):
            raise RowError(
                field, f"{shown(name)} is an address; download the {self.what} and give its path", "an address"
            )
        if self._may_leave or not (name.startswith("/") or ".." in name.split("/")):
            # One spelling for each file, because clips are kept by their path. Path() is slow where it does nothing.
            return str(self.path / name) if "./" in name or "//" in name else os.path.join(self._prefix, name)
        # Without "..": the operating system would follow a link first, and leave its target.
        path = os.path.normpath(os.path.join(self._absolute, name))
        if not path.startswith(self._roots):
            raise RowError(
                field,
                f"{shown(name)} leads outside of {self.path}; set {self._setting} to a folder that holds every "
                f"{self.what}, or allow_outside_paths=true if you trust this file",
                OUTSIDE,
            )
        root = self._roots[0]
        return os.path.join(self._prefix, path.removeprefix(root)) if path.startswith(root) else path

    def same_file(self, path: str) -> str | None:
        """The file at a path, whose name may be in another Unicode form; None if there is none."""
        if os.path.isfile(path):
            return path
        folder, name = os.path.split(path)
        same = self.listing(folder).get(normal_form(name), [])
        found = os.path.join(folder, same[0]) if len(same) == 1 else ""
        return found if os.path.isfile(found) else None

    def with_suffix(self, names: Sequence[str], suffixes: Sequence[str], field: str) -> str | None:
        """The first file that is named as one of `names` with one of `suffixes`, the earlier suffixes first.

        Folders are listed once: a look-up for each suffix of each of 57,000 names is slow on a network file system.
        """
        paths = [os.path.split(self.locate(name, field)) for name in dict.fromkeys(names)]
        for suffix in suffixes:
            for folder, stem in paths:
                found = self._stems(folder).get(normal_form(stem) + suffix)
                if found is not None:
                    return os.path.join(folder, found)
        return None

    def listing(self, folder: str) -> dict[str, list[str]]:
        """The entries of a folder by the normal form of their names, read once; empty if it cannot be read."""
        if folder not in self._listings:
            by_normal: dict[str, list[str]] = {}
            for name in entries_of(folder):
                by_normal.setdefault(normal_form(name), []).append(name)
            self._listings[folder] = by_normal
        return self._listings[folder]

    def missing(self, reason: str, name: str, field: str) -> RowError:
        """The error for a file that is not there. The first one says where it is instead, if that can be seen."""
        self._num_missing += 1
        hint = _other_than_file(self.locate(name, "")) or (self._hint(name) if self._num_missing == 1 else "")
        return RowError(field, reason + hint, self.missing_kind)

    def _stems(self, folder: str) -> dict[str, str]:
        """The entries of a folder by their normal form with a small suffix: clip.WAV counts as clip.wav."""
        if folder not in self._by_stem:
            self._by_stem[folder] = {
                Path(normal).stem + Path(normal).suffix.lower(): names[0]
                for normal, names in self.listing(folder).items()
            }
        return self._by_stem[folder]

    def _hint(self, name: str) -> str:
        """Where the file may be; looks only at names that `locate` allows."""
        path = self.locate(name, "")
        folder, last = os.path.split(path)
        near = next((other for other in entries_of(folder) if other.casefold() == last.casefold()), None)
        if near:
            return f"; there is {near!r}, which differs only in capital letters"
        if "\\" in name and self._is_inside(name.replace("\\", "/")):
            return "; write the path with / instead of \\"
        if not name.startswith("/") and ".." not in name.split("/"):
            for other in (self._questions.parent, self.path.parent, Path.cwd(), *_folders_in(self._questions.parent)):
                if os.path.isfile(os.path.join(other, name)):
                    return f"; it is in {other}: set the data set's {self._setting} to that"
        if os.path.isfile(os.path.join(self._prefix, last)):
            setting = self._setting
            return f"; {self.path} holds {last!r} without its folder: set {setting} to the folder above, or cut it"
        return ""

    def _is_inside(self, name: str) -> bool:
        try:
            return os.path.isfile(self.locate(name, ""))
        except RowError:
            return False


def _other_than_file(path: str) -> str:
    """What there is at a path that is no file; empty if there is nothing."""
    # Not the methods of Path: they raise for a name that is too long.
    if os.path.isdir(path):
        return "; that is a folder"
    if os.path.islink(path):
        return "; that is a link to a file that is not there"
    return "; that is no regular file" if os.path.lexists(path) else ""


def normal_form(name: str) -> str:
    """A file name in one of the forms in which file systems keep accents: macOS writes NFD, most others NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def entries_of(folder: str) -> list[str]:
    """The names in a folder; none if it cannot be read."""
    try:
        return [entry.name for entry in os.scandir(folder)]
    except (OSError, ValueError):
        return []


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())[:50]
    except OSError:
        return []
