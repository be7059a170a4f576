"""Reward functions and their actors."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.setting import setting


@dataclass
class RewardConfig:
    """One reward function and the actors that run it. A run has a list of them; the default is `accuracy` alone."""

    name: str = ""
    """`accuracy` or `format`, or with `path` a name of your choice."""
    path: str = ""
    """Your own function: `file.py:function` or `package.module:function`. Empty: the built-in function `name`."""
    interface: Literal["auto", "ssr1", "trl", "trl_messages", "verl"] = "auto"
    """How `path` is called: as this package does, or as TRL (with texts or lists of messages) or verl does.
    `auto`: what its parameters say."""
    weight: float = 1.0
    """Factor of this reward in the sum of rewards."""
    options: dict[str, object] = field(default_factory=dict)
    """Keyword arguments of the reward function."""
    num_actors: int = setting(1, ge=1)
    """Actors that run it."""
    num_cpus: float = setting(0.1, ge=0)
    """CPU cores that Ray reserves per actor."""
    num_gpus: float = setting(0.0, ge=0)
    """GPUs that Ray reserves per actor; a fraction below 1 lets actors share one. Without any, an actor sees no GPU."""
    timeout_s: float = setting(60.0, gt=0)
    """Longest time for one group, in seconds."""
    max_retries: int = setting(2, ge=0)
    """Retries after a failure; then the group is left out of training."""
    runtime_env: dict[str, object] = field(default_factory=dict)
    """Ray runtime environment of the actors."""
