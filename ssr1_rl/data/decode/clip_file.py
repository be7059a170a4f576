"""An open clip, as both decoders read it.

Decoders get an open file, never a name. So the content alone decides who decodes it, and no name is taken for an
address or an option: FFmpeg reads "http:a.wav" and "concat:a|b" as protocols.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import cast

from ssr1_rl.data.decode.errors import AudioError, unreadable

_BUFFER_BYTES = 2**16


class ClipFile:
    """A regular file that is not empty. It has no `name`, because decoders would look at it.

    An error of the operating system must not pass through a decoder: libsndfile would print it and read on, FFmpeg may
    report it in the next file. So it looks like the end of the file to the decoder, and `check` raises it afterwards.

    Args:
        what: "audio" or "video", for error messages.

    Attributes:
        path: for error messages.
        num_bytes: size of the file.

    Raises:
        AudioError: the file cannot be opened, is no file, or is empty.
    """

    def __init__(self, path: Path, what: str = "audio") -> None:
        self.path = path
        self._what = what
        self._error: OSError | None = None
        try:
            # Opening a named pipe would wait for a writer, so the kind of file is checked first.
            status = path.stat()
            is_file = stat.S_ISREG(status.st_mode)
            file = path.open("rb", buffering=_BUFFER_BYTES) if is_file and status.st_size else None
        except OSError as error:
            raise unreadable(path, error, what) from error
        except ValueError as error:
            raise AudioError(f"{path!r}: is no file name ({error}); fix the row") from error
        if not is_file:
            found = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            wanted = "an audio file" if what == "audio" else f"a {what} file"
            raise AudioError(f"{path}: is {found}, not {wanted}; fix the row, or data's {what}_dir")
        if file is None:
            raise AudioError(f"{path}: the file is empty (0 bytes); fetch it again or leave its row out")
        self._file = cast("BufferedReader", file)
        self.num_bytes = status.st_size

    def __enter__(self) -> ClipFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._file.close()

    def check(self) -> None:
        """Raises the error of the operating system that reading met, if there was one."""
        if self._error is not None:
            raise unreadable(self.path, self._error, self._what) from self._error

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self._error = error
            return b""

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self._file.readinto(buffer)
        except OSError as error:
            self._error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError) as error:
            # A broken file may send a decoder to before its start: the file's fault, not the file system's.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                self._error = error
            return -1

    def tell(self) -> int:
        return self._file.tell()
