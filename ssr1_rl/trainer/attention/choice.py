"""Chooses the attention backend that the learner uses. Does not import torch, so that settings are checked early."""

import importlib
import importlib.metadata
from dataclasses import dataclass

from ssr1_rl.errors import ConfigError

FASTEST_FIRST = ("flash", "flex", "sdpa")
PACKAGES = {"flash": "flash_attn", "flex": "triton"}
"""The package that each backend needs in addition to torch."""

OLDEST_FLASH_ATTN = (2, 1)
"""Older versions align the causal mask of fewer queries than keys to the top left: silently wrong for responses."""


@dataclass(frozen=True)
class AttentionChoice:
    """The name of a backend, and why it was chosen."""

    backend: str
    why: str

    def __str__(self) -> str:
        return f"{self.backend} ({self.why})"


def choose_attention(wanted: str, device: str, dtype: str) -> AttentionChoice:
    """The backend for `model.attn_implementation`; "auto" takes the fastest that can run on this machine.

    Raises:
        ValueError: the backend that was set cannot run; the message says what is missing.
    """
    if wanted != "auto":
        if missing := what_is_missing(wanted, device, dtype) or _missing_package(wanted):
            raise ConfigError(f"model.attn_implementation={wanted} cannot run here: {missing}; set it to auto")
        return AttentionChoice(wanted, "as model.attn_implementation says")
    passed_over: list[str] = []
    for backend in FASTEST_FIRST:
        missing = what_is_missing(backend, device, dtype) or _missing_package(backend)
        if not missing:
            return AttentionChoice(backend, "; ".join(passed_over) or "the fastest")
        passed_over.append(f"no {backend}: {missing}")
    raise AssertionError("sdpa runs everywhere")


def what_is_missing(backend: str, device: str, dtype: str) -> str:
    """Why `backend` cannot run with these settings; empty if it can."""
    if backend == "sdpa":
        return ""
    if device != "cuda":
        return "it needs run.device=cuda" if backend == "flash" else "its backward pass needs run.device=cuda"
    if backend == "flash" and dtype != "bfloat16":
        return f"it needs model.dtype=bfloat16, which is {dtype}"
    return ""


def _missing_package(backend: str) -> str:
    if backend not in PACKAGES:
        return ""
    try:
        # A build for another torch or CUDA is installed but fails on import.
        importlib.import_module(PACKAGES[backend])
        version = importlib.metadata.version("flash-attn") if backend == "flash" else ""
    except ImportError as error:
        return f"the package {PACKAGES[backend]} does not import ({error})"
    if version and tuple(map(int, version.split(".")[:2])) < OLDEST_FLASH_ATTN:
        return f"flash-attn is {version}, which masks responses wrongly; install 2.1 or newer"
    return ""
