"""What a clip that cannot be used raises, and which errors of the operating system may pass."""

import errno
from pathlib import Path

from ssr1_rl.errors import UserError

_LASTING = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL}
"""Errors that the same call gives again. All others (EIO, ESTALE, ETIMEDOUT, too many open files …) may pass; also
ENOENT, since a network file system may lose sight of a file for a moment."""


class AudioError(UserError):
    """A clip that cannot be used; the message gives file, reason and fix."""


class ClipTooLong(AudioError):
    """A clip that is longer than `max_audio_s`, where such clips are refused."""


class AudioUnavailable(AudioError):
    """A clip that could not be read just now, and may be readable later."""


def unreadable(path: Path, error: OSError, what: str = "audio") -> AudioError:
    """The error for a file (of `what`: audio, video) that the operating system did not open or read."""
    if error.errno == errno.ENOENT:
        return AudioUnavailable(f"{path}: no such {what} file; add it, or fix data's {what}_dir")
    reason = error.strerror or str(error)
    if error.errno in _LASTING:
        return AudioError(f"{path}: cannot be read ({reason}); fix its path or its permissions")
    return AudioUnavailable(f"{path}: cannot be read ({reason}); check the file system that it is on")
