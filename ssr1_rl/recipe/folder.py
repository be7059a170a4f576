"""Where the stages of a recipe keep what they make."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RecipeFolder:
    """The folder of a recipe (`run.dir`): one folder per stage in it."""

    path: Path

    def of(self, stage: str) -> Path:
        """A stage's own folder, the `run.dir` of its settings."""
        return self.path / stage

    @property
    def chains(self) -> Path:
        """The teacher's chains of thought."""
        return self.of("generate") / "chains.parquet"

    @property
    def verified(self) -> Path:
        """The chains with the verifier's verdicts."""
        return self.of("verify") / "verified.parquet"

    @property
    def sft_model(self) -> Path:
        """The student after SFT, as a model folder."""
        return self.of("sft") / "export"

    @property
    def grpo_model(self) -> Path:
        """The student after GRPO, as a model folder."""
        return self.of("grpo") / "export"

    @property
    def table(self) -> Path:
        """The table that the last stage writes."""
        return self.of("evaluate") / "table.md"

    @property
    def results(self) -> Path:
        """The recipe's final table."""
        return self.path / "results.md"

    def set_aside(self, stage: str) -> Path:
        """Moves the stage's folder away, since its inputs have changed; returns where it is now."""
        parent = self.path / "set_aside"
        parent.mkdir(exist_ok=True)
        number = sum(1 for _ in parent.glob(f"{stage}_*")) + 1
        return self.of(stage).rename(parent / f"{stage}_{number:03d}")
