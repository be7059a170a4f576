"""SightSound-R1's claim in miniature: does a check of the teacher's chains against the sound pay, and does GRPO add?

Makes the sight world with a tiny teacher, verifier and student, and runs launch/recipe_local.yaml for students that
learn from labels, from the chains that the labels keep, and from validated chains, with several seeds. docs/paper.md
explains it. Stopped at any moment, the same command goes on; what is done is kept.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import argument_parser, warn_if_busy, write_result
from paper_table import ARMS, draw, table, text_table
from paper_truth import measured_against_truth

ROOT = Path(__file__).parents[1]
SHARED = ("generate", "verify")
"""Stages that are the same for all students; the first recipe makes them."""
TINY = (
    "verifier.threshold=0",
    "stages.sft.sft.max_steps=2",
    "stages.sft.sft.questions_per_step=8",
    "stages.grpo.grpo.num_steps=2",
    "stages.grpo.grpo.questions_per_step=4",
    "stages.grpo.grpo.group_size=4",
    "stages.grpo.grpo.num_minibatches=1",
    "stages.grpo.grpo.validate_every=2",
    "stages.grpo.checkpoint.every=1",
)


@dataclass(frozen=True)
class Paper:
    """The recipes of the miniature, in a folder."""

    folder: Path
    num_seeds: int
    tiny: bool

    @property
    def models(self) -> Path:
        """World, student, teacher and verifier."""
        return self.folder / "sightworld"

    def recipe(self, arm: str, seed: int) -> Path:
        """Folder of one student's recipe."""
        return self.folder / f"{arm}_{seed}"

    def run(self) -> None:
        """Makes what is not made yet."""
        self._command("sightworld", str(self.models), *(["--tiny"] if self.tiny else []))
        first = self.recipe("validated", 0)
        for seed in range(self.num_seeds):
            for arm in ("validated", "kept", "labels"):
                recipe = self.recipe(arm, seed)
                if not recipe.exists():
                    _begin_with(first, recipe)
                seeds = [f"stages.{stage}.run.seed={seed}" for stage in ("sft", "grpo")]
                self._command(
                    "recipe",
                    str(ROOT / "launch/recipe_local.yaml"),
                    f"run.dir={recipe}",
                    f"sft.responses={arm}",
                    *seeds,
                    *(TINY if self.tiny else ()),
                )

    def _command(self, *words: str) -> None:
        print("$ ssr1-rl", *words, flush=True)
        command = [sys.executable, "-m", "ssr1_rl.cli", *words]
        environment = os.environ | {"SSR1_RL_SIGHTWORLD": str(self.models)}
        if code := subprocess.run(command, env=environment, check=False).returncode:
            raise SystemExit(code)

    def seconds(self) -> dict[str, dict[str, float]]:
        """Wall-clock seconds of every stage of every recipe."""
        found = {}
        for seed in range(self.num_seeds):
            for arm in ARMS:
                stages = json.loads((self.recipe(arm, seed) / "recipe.json").read_text())
                made = [name for name in stages if name not in SHARED or (arm, seed) == ("validated", 0)]
                found[f"{arm}, seed {seed}"] = {name: round(stages[name]["wall_s"]) for name in made}
        return found


def _begin_with(first: Path, recipe: Path) -> None:
    """Lets a recipe go on from what the first one has made of the teacher's chains."""
    partial = recipe.with_name(f".{recipe.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if first.exists() and first != recipe:
        for stage in SHARED:
            shutil.copytree(first / stage, partial / stage)
        stages = json.loads((first / "recipe.json").read_text())
        (partial / "recipe.json").write_text(json.dumps({stage: stages[stage] for stage in SHARED}))
    partial.rename(recipe)


def result_of(paper: Paper) -> dict[str, Any]:
    """The table, what is known of teacher and verifier, and the time of every stage."""
    recipes = {(arm, seed): paper.recipe(arm, seed) for arm in ARMS for seed in range(paper.num_seeds)}
    seconds = paper.seconds()
    total = sum(sum(stages.values()) for stages in seconds.values())
    return {
        "table": table(recipes, paper.num_seeds),
        "chains": measured_against_truth(paper.models / "world", recipes["validated", 0] / "verify/verified.parquet"),
        "num_seeds": paper.num_seeds,
        "seconds": {"stages": seconds, "of_recipes": total},
    }


def print_result(result: Mapping[str, Any]) -> None:
    """The table and the figures of the check, for people."""
    print(text_table(result["table"]))
    for name, value in result["chains"].items():
        print(f"{name}: {value}")


def main() -> None:
    parser: argparse.ArgumentParser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), help="folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the students (default: %(default)s)")
    options = parser.parse_args()
    warn_if_busy()
    paper = Paper(options.output.resolve(), options.seeds, options.tiny)
    paper.run()
    result = result_of(paper)
    print_result(result)
    write_result("paper", result, options.results, draw)


if __name__ == "__main__":
    main()
