"""What answers depend on, for their fingerprint: settings and their values, and the files of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from ssr1_rl.config.environment import as_written, plain


def with_digest(readable: Mapping[str, object], unreadable: object = None) -> dict[str, object]:
    """Settings in values that JSON holds, and a digest.

    Text that came from the environment, which may be a secret, is there as its interpolation. The digest is made of the
    values, and of `unreadable`, which is not shown at all.
    """
    written = as_written(dict(readable))
    assert isinstance(written, dict), "a mapping stays one"
    text = json.dumps(plain([dict(readable), unreadable]), sort_keys=True, default=repr)
    return {**written, "digest": _digest(text)}


def model_files(path: str) -> str:
    """Changes when any file of a model folder does; empty for a name on the hub."""
    folder = Path(path)
    found = sorted((file.name, file.stat()) for file in folder.iterdir()) if folder.is_dir() else []
    return _digest(json.dumps([[name, stat.st_size, stat.st_mtime_ns] for name, stat in found])) if found else ""


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
