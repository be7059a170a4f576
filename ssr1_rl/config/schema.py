"""Every setting of a run, by its section. `sections/` has each setting's type, default, bounds and explanation.

A launch file is a YAML file of these sections; `ssr1_rl.checks.rules.load_config` reads and checks it. A component
receives its own section, not the whole. docs/settings_reference.py writes the same list to docs/settings.md.
"""

from dataclasses import dataclass, field

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.evaluation import EvaluationConfig
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.sections.sft import SftConfig
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.config.sections.verifier import VerifierConfig
from ssr1_rl.config.sections.watch import CheckpointConfig, GuardConfig, TelemetryConfig


@dataclass
class Config:
    """Every section. A command reads those of `SECTIONS`, and leaves the others of a launch file alone."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    rewards: list[RewardConfig] = field(default_factory=lambda: [RewardConfig(name="accuracy")])
    grpo: GrpoConfig = field(default_factory=GrpoConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    telemetry: TelemetryConfig = field(default_factory=TelemetryConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    verifier: VerifierConfig = field(default_factory=VerifierConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


@dataclass
class StagesConfig:
    """What single stages of a recipe set differently: each holds the sections of a launch file."""

    generate: Config = field(default_factory=Config)
    """The teacher's stage."""
    verify: Config = field(default_factory=Config)
    """The check of its chains against the sound."""
    sft: Config = field(default_factory=Config)
    """Supervised fine-tuning of the student."""
    grpo: Config = field(default_factory=Config)
    """GRPO of the fine-tuned student."""
    evaluate: Config = field(default_factory=Config)
    """The comparison of all students."""


@dataclass
class RecipeConfig(Config):
    """A launch file of `ssr1-rl recipe`: sections that all stages share, and what single stages set differently."""

    stages: StagesConfig = field(default_factory=StagesConfig)


SECTIONS: dict[str, tuple[str, ...]] = {
    "grpo": ("run", "model", "data", "rollout", "rewards", "grpo", "learner", "checkpoint", "guard", "telemetry"),
    "distill": ("run", "data", "teacher", "verifier"),
    "sft": ("run", "model", "data", "learner", "sft", "evaluation", "checkpoint", "telemetry"),
    "eval": ("run", "data", "evaluation"),
    "data": ("data",),
    "recipe": ("run", "model", "data"),
}
"""Sections that each command reads. In the others required settings may be missing."""

OPTIONAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "eval": (("data", "train", "path"),),
    "data": (("data", "train", "path"),),
}
"""Required settings that a command does without."""
