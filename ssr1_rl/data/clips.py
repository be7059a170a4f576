"""Finds the clips of a row: files that it names, and files that it holds as bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.folder import DataFolder
from ssr1_rl.data.kept_files import KeptFiles
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.types import AudioRef

MISSING = "missing clip"
"""`kind` of the error of a row whose clip is not there."""

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".flv", ".ts", ".wmv", ".mpg", ".mpeg", ".3gp")
CLIP_SUFFIXES = AUDIO_SUFFIXES + VIDEO_SUFFIXES
"""Suffixes of clips, in the order in which they are tried: sound before video, which has to be demuxed."""

_HELD = frozenset({"bytes", "path"})
"""Keys of a clip in Hugging Face data sets."""


class ClipFolder(DataFolder):
    """The folder of a data set's clips: `audio_dir`, or else the folder of its file of questions."""

    what, missing_kind = "clip", MISSING

    def __init__(self, config: DatasetConfig, path: Path | None = None, also: Sequence[Path] = ()) -> None:
        super().__init__(
            config, "audio_dir", Path(config.audio_dir) if config.audio_dir else path or _beside(config), also
        )
        self._kept = KeptFiles(config.clip_cache_dir)

    def find(self, name: object, field: str) -> AudioRef:
        """The clip at a path relative to the folder.

        Raises:
            RowError: there is no such file, or it is outside of the folder.
        """
        path = self.locate(name, field)
        found = self.same_file(path)
        if found is None:
            raise self.missing(f"no such file: {shown(path)}", str(name), field)
        return AudioRef(found)

    def find_named(self, name: str, stems: Sequence[str], field: str) -> AudioRef:
        """The clip that is named as one of `stems`, with any suffix of a sound or video file.

        Args:
            name: how the row calls it.
            stems: names without a suffix, the preferred one first.
            field: the field of `name`.

        Raises:
            RowError: as `find`.
        """
        found = self.with_suffix(stems, CLIP_SUFFIXES, field)
        if found is None:
            names = " or ".join(shown(stem)[1:-1] for stem in dict.fromkeys(stems))
            suffixes = f"(.wav, .mp4 or another of {len(CLIP_SUFFIXES)})"
            raise self.missing(f"no clip named {names} {suffixes} in {self.path}", name + ".wav", field)
        return AudioRef(found)

    def clips(self, value: object, field: str) -> tuple[AudioRef, ...]:
        """The clips of a field: none, one or a list of them, each a path, bytes, or the two in Hugging Face's form."""
        values = [] if value is None else value if isinstance(value, list) else [value]
        return tuple(self._clip(inner, field) for inner in values)

    def _clip(self, value: object, field: str) -> AudioRef:
        held = held_bytes(value, field)
        if held is not None:
            return AudioRef(self._kept.keep(held))
        return self.find(path_in(value), field)


def held_bytes(value: object, field: str) -> bytes | None:
    """The content of a file that a row holds; None if it only names one.

    Raises:
        RowError: the content is empty.
    """
    if isinstance(value, Mapping) and value.keys() <= _HELD and value.get("bytes") is not None:
        value = value["bytes"]
    if not isinstance(value, bytes):
        return None
    if not value:
        raise RowError(field, "the file in the row is empty (0 bytes); leave its row out", "empty file")
    return value


def path_in(value: object) -> object:
    """The path that a value holds in Hugging Face's form; any other value as it is."""
    return value["path"] if isinstance(value, Mapping) and "path" in value and value.keys() <= _HELD else value


def without_suffix(name: str) -> str:
    """A name without the suffix of a sound or video file; other names may have a dot of their own."""
    match = re.fullmatch(r"(.+)(\.[A-Za-z0-9]{1,5})", name, re.DOTALL)
    return match[1] if match and match[2].lower() in CLIP_SUFFIXES else name


def _beside(config: DatasetConfig) -> Path:
    path = Path(config.path)
    return path if path.is_dir() else path.parent
