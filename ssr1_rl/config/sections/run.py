"""Where a run keeps its files and how it starts."""

from dataclasses import dataclass
from typing import Literal

from omegaconf import MISSING

from ssr1_rl.config.setting import setting


@dataclass
class RunConfig:
    """Where a run keeps its files and how it starts."""

    name: str = setting(MISSING, filled=True, shown=True)
    """Name of the run."""
    dir: str = setting("runs/${run.name}", filled=True, shown=True)
    """Folder of checkpoints, metrics and samples."""
    device: Literal["cuda", "cpu"] = "cuda"
    """What engines and learners run on."""
    seed: int = setting(0, ge=0, le=2**32 - 1)
    """Seed of the order of questions, of sampling and of torch."""
    resume: str = setting("auto", filled=True, shown=True)
    """`auto`: resume from the newest whole checkpoint in `run.dir`, or start if there is none. `never`: refuse a folder
    that already holds a run. Anything else is the path of the checkpoint to resume from."""
