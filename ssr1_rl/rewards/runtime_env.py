"""Sentences about the runtime_env of a reward function's actors, which Ray sets up before they start."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.rewards.source import RewardSource, reward_name

_INSTALLS = ("pip", "uv", "conda")
# The last words of pip ("ERROR: No matching distribution found for x"), of uv ("error: …", "× No solution found …").
_INSTALLER_SAYS = re.compile(r"^\s*((?:ERROR:|error:|×) .+?)\s*$", re.MULTILINE)
_TOOK_TOO_LONG = re.compile(r"Failed to install runtime_env within the timeout of \S+ seconds")
_MAX_CHARS = 400
_RAY_S = 600
"""Ray's default of `config.setup_timeout_seconds`."""


def setup_timeout_s(config: RewardConfig) -> float:
    """How long Ray may take to set up the runtime_env; Ray's -1 is "no limit"."""
    of_config = config.runtime_env.get("config")
    seconds = of_config.get("setup_timeout_seconds", _RAY_S) if isinstance(of_config, Mapping) else _RAY_S
    return float(seconds) if isinstance(seconds, int) and seconds >= 0 else math.inf


def runtime_env_in_words(config: RewardConfig) -> str:
    """What happens before an actor with a runtime_env starts. Values are left out, because they may be secrets."""
    fields = ", ".join(config.runtime_env)
    takes_long = ", which may take minutes" if any(field in config.runtime_env for field in _INSTALLS) else ""
    return f"Ray sets up its runtime_env ({fields}){takes_long}"


def runtime_env_failed(source: RewardSource, error: Exception) -> str:
    """The error of a runtime_env that Ray could not set up, with the installer's own last words."""
    text = str(error)
    said = _TOOK_TOO_LONG.findall(text) or _INSTALLER_SAYS.findall(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    reason = said[-1] if said else lines[-1]
    return (
        f"the runtime_env of reward function {reward_name(source.config)!r} could not be set up: "
        f"{reason[:_MAX_CHARS]}; fix {source.field}.runtime_env ({', '.join(source.config.runtime_env)})"
    )
