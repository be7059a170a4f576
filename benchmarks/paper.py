"""SightSound-R1's claim in miniature: does a check of the teacher's chains against the sound pay, and does GRPO add?

Makes the sight world, a tiny teacher and a tiny verifier, lets them write and check chains of thought, trains students
from labels, from chains and from validated chains, each by SFT and then by GRPO, and evaluates all of them on three
tests. docs/paper.md explains it. Stopped at any moment, the same command goes on; a stage that is done is kept.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import argument_parser, warn_if_busy, write_result
from paper_table import ARMS, PRETRAINED, TESTS, draw, table, text_table
from paper_truth import measured_against_truth

SETTINGS = Path(__file__).parent / "paper.yaml"
DONE = "done.json"
TINY = (
    "sft.max_steps=4",
    "sft.questions_per_step=8",
    "grpo.num_steps=2",
    "grpo.questions_per_step=4",
    "grpo.group_size=4",
    "grpo.num_minibatches=1",
    "grpo.validate_every=2",
    "checkpoint.every=1",
)


@dataclass(frozen=True)
class Stage:
    """One command, and the folder of what it makes."""

    name: str
    folder: Path
    command: tuple[str, ...]

    def run(self) -> float:
        """Runs the command unless it is done; returns the seconds that it took."""
        stamp = self.folder / DONE
        if stamp.is_file():
            made = json.loads(stamp.read_text())
            if made["command"] != list(self.command):
                raise SystemExit(f"{self.folder} was made by another command; give another --output, or remove it")
            print(f"{self.name}: done before, in {made['s']:.0f} s", flush=True)
            return made["s"]
        print(f"{self.name} …", flush=True)
        started = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("ab") as log:
            ended = subprocess.run(self.command, stdout=log, stderr=subprocess.STDOUT, check=False)
        if ended.returncode:
            raise SystemExit(f"{self.name} failed (exit code {ended.returncode}); see {log.name}")
        seconds = time.monotonic() - started
        stamp.write_text(json.dumps({"s": seconds, "command": self.command}))
        print(f"{self.name}: {seconds:.0f} s", flush=True)
        return seconds


class Paper:
    """The stages of the miniature, in a folder."""

    def __init__(self, folder: Path, num_seeds: int, tiny: bool) -> None:
        self.folder, self.seeds, self._tiny = folder, range(num_seeds), tiny
        self.models, self.distilled = folder / "models", folder / "distill"
        self.world = self.models / "world"

    def stages(self) -> list[Stage]:
        make = _ssr1_rl("sightworld", str(self.models), *(["--tiny"] if self._tiny else []))
        found = [Stage("world and models", self.models / "made", make)]
        for stage in ("generate", "verify"):
            words = (*self._of_train(), f"run.dir={self.distilled}", f"teacher.model={self.models / 'teacher'}")
            words = (*words, f"verifier.model={self.models / 'verifier'}")
            found.append(Stage(stage, self.folder / stage, self._cli("distill", stage, *words)))
        for seed in self.seeds:
            for arm in ARMS:
                found += self._student(arm, seed)
        found.append(Stage("evaluate", self.folder / "evaluate", self._evaluate()))
        return found

    def students(self) -> dict[str, Path]:
        """Every model by its name in the evaluation."""
        found = {PRETRAINED: self.models / "student"}
        for seed in self.seeds:
            for arm in ARMS:
                found[f"{arm}_sft_{seed}"] = self._run(arm, "sft", seed) / "export"
                found[f"{arm}_grpo_{seed}"] = self._run(arm, "grpo", seed) / "export"
        return found

    def _student(self, arm: str, seed: int) -> list[Stage]:
        """SFT of one arm, then GRPO, then the export of its last step."""
        common = (*self._of_train(), *self._splits(["validation"]), f"run.seed={seed}")
        sft, grpo = self._run(arm, "sft", seed), self._run(arm, "grpo", seed)
        chains = self.distilled / ("verified.parquet" if arm == "validated" else "chains.parquet")
        given = () if arm == "labels" else (f"sft.chains={chains}",)
        learn = (f"run.dir={sft}", f"model.path={self.models / 'student'}", f"sft.responses={arm}", *given)
        learn = (*learn, "learner.learning_rate=1e-3", "learner.warmup_steps=20", "checkpoint.every=100")
        explore = (f"run.dir={grpo}", f"model.path={sft / 'export'}", "learner.learning_rate=3e-4")
        name = f"{arm}, seed {seed}"
        return [
            Stage(f"SFT on {name}", sft.with_name(sft.name + "_stage"), self._cli("sft", *common, *learn)),
            Stage(f"GRPO after {name}", grpo.with_name(grpo.name + "_stage"), self._cli("grpo", *common, *explore)),
            Stage(
                f"export after {name}",
                grpo.with_name(grpo.name + "_export"),
                (*_ssr1_rl("export", str(grpo)), "--step", "last"),
            ),
        ]

    def _run(self, arm: str, stage: str, seed: int) -> Path:
        return self.folder / "students" / f"{arm}_{stage}_{seed}"

    def _evaluate(self) -> tuple[str, ...]:
        models = [f"evaluation.models.{name}={path}" for name, path in self.students().items()]
        return self._cli("eval", f"run.dir={self.folder / 'evaluation'}", *self._splits(TESTS), *models)

    def _of_train(self) -> tuple[str, ...]:
        return (
            f"data.train.path={self.world / 'train.json'}",
            f"data.train.audio_dir={self.world / 'audio'}",
            f"data.train.video_dir={self.world / 'video'}",
        )

    def _splits(self, names: Sequence[str]) -> list[str]:
        return [
            f"data.validation.{name}.{field}={self.world / value}"
            for name in names
            for field, value in (("path", f"{name}.json"), ("audio_dir", "audio"))
        ]

    def _cli(self, *words: str) -> tuple[str, ...]:
        """A sub-command of ssr1-rl with the shared settings; `words` are the sub-command and overrides."""
        command = [word for word in words if "=" not in word]
        overrides = [word for word in words if "=" in word]
        read = {"distill": (), "sft": ("sft", "checkpoint"), "grpo": ("grpo", "checkpoint"), "eval": ()}[command[0]]
        tiny = [word for word in TINY if self._tiny and word.startswith(read)] if read else []
        return (*_ssr1_rl(*command, str(SETTINGS)), *overrides, *tiny)


def _ssr1_rl(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ssr1_rl.cli", *words)


def result_of(paper: Paper, seconds: Mapping[str, float]) -> dict[str, Any]:
    """The table, what is known of teacher and verifier, and the time of every stage."""
    return {
        "table": table(paper.folder / "evaluation", len(paper.seeds)),
        "chains": measured_against_truth(paper.world, paper.distilled / "verified.parquet"),
        "seeds": list(paper.seeds),
        "seconds": dict(seconds) | {"all": sum(seconds.values())},
    }


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/paper"), help="folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of the students (default: %(default)s)")
    options = parser.parse_args()
    warn_if_busy()
    paper = Paper(options.output, options.seeds, options.tiny)
    seconds = {stage.name: stage.run() for stage in paper.stages()}
    result = result_of(paper, seconds)
    print(text_table(result["table"]))
    write_result("paper", result, options.results, draw)


if __name__ == "__main__":
    main()
