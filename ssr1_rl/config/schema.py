"""Every setting of a run, by its section. `sections/` has each setting's type, default, bounds and explanation.

A launch file is a YAML file of these sections; `ssr1_rl.checks.rules.load_config` reads and checks it. A component
receives its own section, not the whole. docs/settings_reference.py writes the same list to docs/settings.md.
"""

from dataclasses import dataclass, field

from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.grpo import GrpoConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.sections.rewards import RewardConfig
from ssr1_rl.config.sections.rollout import RolloutConfig
from ssr1_rl.config.sections.run import RunConfig
from ssr1_rl.config.sections.watch import CheckpointConfig, GuardConfig, TelemetryConfig


@dataclass
class Config:
    """A whole run."""

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
