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
    setup: str = ""
    """Command or step that makes the data and the model of this launch file. Errors about a missing file name it."""
    wait_for_resources_s: float = setting(0.0, ge=0)
    """Longest wait, in seconds, for nodes that join the cluster later, an autoscaler's too. 0: a cluster that is too
    small is refused at once; resources that other jobs hold are waited for up to a minute."""
    resume: str = setting("auto", filled=True, shown=True)
    """`auto`: resume from the newest whole checkpoint in `run.dir`, or start if there is none. `never`: refuse a folder
    that already holds a run. Anything else is the path of the checkpoint to resume from; once `run.dir` holds steps
    that were resumed from it, the newest of them."""
    max_time_s: float = setting(0.0, ge=0)
    """Seconds from the start of the command after which it finishes its step, saves, and exits with code 75. 0: no
    limit."""
