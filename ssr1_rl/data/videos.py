"""Finds the silent video of a question, for a teacher that sees: a video file, or a folder of stills."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ssr1_rl.config.sections.data import DatasetConfig
from ssr1_rl.data.clips import VIDEO_SUFFIXES, held_bytes, path_in, without_suffix
from ssr1_rl.data.folder import DataFolder, entries_of
from ssr1_rl.data.kept_files import KeptFiles
from ssr1_rl.data.row_error import RowError, shown
from ssr1_rl.types import AudioRef, VideoRef

MISSING_VIDEO = "missing video"
"""`kind` of the error of a row whose video is not there."""

STILL_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class VideoFolder(DataFolder):
    """The folder `video_dir` of a data set. Without it no question has a video."""

    what, missing_kind = "video", MISSING_VIDEO

    def __init__(self, config: DatasetConfig) -> None:
        super().__init__(config, "video_dir", Path(config.video_dir))
        self._is_set = bool(config.video_dir)
        self._kept = KeptFiles(config.clip_cache_dir)

    def named(self, stems: Sequence[str], field: str) -> VideoRef | None:
        """The video that is named as one of `stems`: a file with any suffix of a video, or a folder of stills.

        Raises:
            RowError: there is none, it is outside of the folder, or the folder of stills is empty.
        """
        if not self._is_set:
            return None
        found = self.with_suffix(stems, VIDEO_SUFFIXES, field)
        if found is not None:
            return VideoRef(found)
        for stem in stems:
            folder = self.locate(stem, field)
            if os.path.isdir(folder):
                return VideoRef(stills=_stills(folder, field))
        names = " or ".join(shown(stem)[1:-1] for stem in dict.fromkeys(stems))
        raise self.missing(
            f"no video or folder of stills named {names} in {self.path}; set video_dir right, or leave it empty",
            f"{stems[0]}.mp4",
            field,
        )

    def find(self, value: object, field: str) -> VideoRef | None:
        """The video of a field: a path with or without its suffix, a folder of stills, or the bytes of a file.

        Raises:
            RowError: as `named`.
        """
        if not self._is_set:
            return None
        held = held_bytes(value, field)
        if held is not None:
            return VideoRef(self._kept.keep(held))
        path = self.locate(path_in(value), field)
        found = self.same_file(path)
        if found is None:
            return self.named([os.path.relpath(without_suffix(path), self.path)], field)
        is_still = Path(found).suffix.lower() in STILL_SUFFIXES
        return VideoRef(stills=(found,)) if is_still else VideoRef(found)

    def of_clip(self, clips: Sequence[AudioRef], folder: Path, field: str) -> VideoRef | None:
        """The video that is named as the row's only clip, below `folder` as that is below the folder of clips.

        Raises:
            RowError: as `named`; or the row has no clip, or several.
        """
        if not self._is_set:
            return None
        if len(clips) != 1:
            raise RowError(
                field, f"names no video, and the row has {len(clips)} clips; name its video", self.missing_kind
            )
        path = Path(clips[0].path)
        name = path.relative_to(folder) if path.is_relative_to(folder) else path.name
        return self.named([without_suffix(str(name))], field)


def _stills(folder: str, field: str) -> tuple[str, ...]:
    """The images in a folder, frame_2 before frame_10."""
    names = [name for name in entries_of(folder) if name.lower().endswith(STILL_SUFFIXES) and not name.startswith(".")]
    if not names:
        raise RowError(field, f"the folder of stills {shown(folder)} holds no image", "no stills")
    ordered = sorted(
        names, key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
    )
    return tuple(os.path.join(folder, name) for name in ordered)
