"""What a run keeps, checks and reports."""

from dataclasses import dataclass, field
from typing import Literal

from ssr1_rl.config.setting import setting


@dataclass
class CheckpointConfig:
    """Which checkpoints are kept."""

    every: int = setting(50, ge=1)
    """Steps between checkpoints. The last step is always saved."""
    every_s: float = setting(0.0, ge=0)
    """Seconds since the last checkpoint after which the next step is saved too. 0: only every `checkpoint.every` steps
    are."""
    keep_last: int = setting(2, ge=1)
    """Newest checkpoints to keep."""
    keep_best: bool = True
    """Write a checkpoint of each new best validation score too, and keep it until a better one."""


@dataclass
class GuardConfig:
    """Checks that stop a run whose engines and learner disagree, or whose engines return log-probs that are none."""

    max_logprob_abs_diff_mean: float = setting(0.05, gt=0)
    """Largest mean difference, in nats, between the log-probs of engine and learner on a step's on-policy tokens."""
    max_logprob_abs_diff: float = setting(float("inf"), gt=0)
    """Largest difference, in nats, between the log-probs of engine and learner on a single such token."""
    max_unusable_logprob_share: float = setting(0.01, ge=0, le=1)
    """Largest share of a step's tokens whose log-prob from the engine may be NaN, infinite or above 0; the loss leaves
    such tokens out."""
    check_weights: bool = True
    """After the first weight sync, compare checksums of every tensor on both sides."""


@dataclass
class TelemetryConfig:
    """Where metrics and samples go."""

    tensorboard: bool = True
    """Write TensorBoard event files."""
    trackers: list[Literal["wandb", "mlflow", "trackio"]] = field(default_factory=list)
    """Trackers that get every metric too. Each has an extra of its own (`pip install ssr1-rl[wandb]`)."""
    tracker_project: str = setting("ssr1-rl", filled=True)
    """Project (in MLflow: experiment) of the trackers."""
    samples: bool = True
    """Write the samples of every step as Parquet."""
    stall_warning_s: float = setting(60.0, gt=0)
    """Seconds without progress after which the run prints what it waits for."""
