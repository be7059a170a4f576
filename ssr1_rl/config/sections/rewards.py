"""Reward functions and their actors."""

from dataclasses import dataclass, field

from ssr1_rl.config.setting import setting


@dataclass
class RewardConfig:
    """One reward function and the actors that run it. A run has a list of them; the default is `accuracy` alone."""

    name: str = ""
    """`accuracy` or `format`, or with `path` a name of your choice."""
    path: str = ""
    """Your own function: `file.py:function` or `package.module:function`. Empty: the built-in function `name`."""
    weight: float = 1.0
    """Factor of this reward in the sum of rewards."""
    options: dict[str, object] = field(default_factory=dict)
    """Keyword arguments of the reward function."""
    num_actors: int = setting(1, ge=1)
    """Actors that run it."""
    num_cpus: float = setting(0.1, ge=0)
    """CPU cores that Ray reserves per actor."""
    timeout_s: float = setting(60.0, gt=0)
    """Longest time for one group, in seconds."""
    max_retries: int = setting(2, ge=0)
    """Retries after a failure; then the group is left out of training."""
    runtime_env: dict[str, object] = field(default_factory=dict)
    """Ray runtime environment of the actors."""
