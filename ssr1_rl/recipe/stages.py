"""The five stages: what each reads, what it writes, and the settings that connect it with the others."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssr1_rl.config.kinds import dotted, flat
from ssr1_rl.config.load import OfStage, read_settings
from ssr1_rl.config.overrides import Layer
from ssr1_rl.config.schema import Config
from ssr1_rl.recipe.fingerprint import Fingerprint, of_data, of_model, of_path, of_settings
from ssr1_rl.recipe.folder import RecipeFolder


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        command: the sub-command of ssr1-rl whose settings it reads.
        version: rises when the stage's code gives another output for the same inputs; then it runs again.
        unread: beginnings of the names of settings that its command reads and it does not.
        wiring: settings that connect it with the stages before it.
        inputs: what it reads besides its settings.
        outputs: what is there when it is done.
        check: refuses settings that contradict each other.
        run: does the work, or goes on with it.
    """

    name: str
    command: str
    version: int
    unread: tuple[str, ...]
    wiring: Callable[[RecipeFolder, Config], Layer]
    inputs: Callable[[RecipeFolder, Config], Fingerprint]
    outputs: Callable[[RecipeFolder], list[Path]]
    check: Callable[[Config], None]
    run: Callable[[Config], str]

    def settings(self, path: Path, overrides: Sequence[str], folder: RecipeFolder, recipe: Config) -> Config:
        """The stage's own settings, checked."""
        run: Layer = {"dir": str(folder.of(self.name)), "name": f"{recipe.run.name}-{self.name}"}
        wiring = {"run": run} | self.wiring(folder, recipe)
        config, _ = read_settings(path, overrides, self.command, OfStage(self.name, wiring))
        self.check(config)
        return config

    def fingerprint(self, folder: RecipeFolder, config: Config) -> Fingerprint:
        """Everything that the output depends on.

        What connects the stages counts by its content (`inputs`), not by its place: a recipe's folder may be moved.
        """
        code = {"code of the stage": str(self.version)}
        settings = of_settings(config, self.command)
        wired = {dotted(key) for key in flat(self.wiring(folder, config))}
        read = {
            name: value for name, value in settings.items() if not name.startswith(self.unread) and name not in wired
        }
        return read | self.inputs(folder, config) | code


def _generate_inputs(folder: RecipeFolder, config: Config) -> Fingerprint:
    return of_data(config.data.train, "data.train") | of_model(config.teacher.model, "teacher")


def _verify_inputs(folder: RecipeFolder, config: Config) -> Fingerprint:
    model = of_model(config.verifier.model, "verifier") if config.verifier.model else {}
    file = config.verifier.custom.path.partition(":")[0]
    own = {"file of verifier.custom.path": of_path(Path(file))} if file.endswith(".py") else {}
    return _chains(folder.chains) | of_data(config.data.train, "data.train") | model | own


def _sft_inputs(folder: RecipeFolder, config: Config) -> Fingerprint:
    chains = _chains(Path(config.sft.chains)) if config.sft.responses != "labels" else {}
    return chains | _all_data(config) | of_model(config.model.path, "the student")


def _grpo_inputs(folder: RecipeFolder, config: Config) -> Fingerprint:
    return _all_data(config) | of_model(config.model.path, "the student after SFT")


def _evaluate_inputs(folder: RecipeFolder, config: Config) -> Fingerprint:
    models: Fingerprint = {}
    for name, path in config.evaluation.models.items():
        models |= of_model(path, name)
    return _validation(config) | models


def _chains(path: Path) -> Fingerprint:
    return {"chains of thought": of_path(path)}


def _all_data(config: Config) -> Fingerprint:
    return of_data(config.data.train, "data.train") | _validation(config)


def _validation(config: Config) -> Fingerprint:
    found: Fingerprint = {}
    for name, split in config.data.validation.items():
        found |= of_data(split, f"data.validation.{name}")
    return found


def _generate(config: Config) -> str:
    from ssr1_rl.distill.teacher import generate

    found = generate(config)
    return (
        f"{found['num_kept']:,} of {found['num_chains']:,} chains kept, "
        f"{found['num_questions_without_a_kept_chain']:,} of {found['num_questions']:,} questions without one"
    )


def _verify(config: Config) -> str:
    from ssr1_rl.distill.verifier import verify

    found = verify(config).of_all
    return (
        f"{found.num_validated:,} of {found.num_chains:,} chains validated, "
        f"{found.num_questions_left:,} of {found.num_questions:,} questions without one"
    )


def _sft(config: Config) -> str:
    from ssr1_rl.distill.sft import run_sft

    found = run_sft(config)
    loss = found.get("validation_loss_best")
    return f"{found['num_steps']:.0f} steps" + (f", validation loss {loss:.3f}" if loss is not None else "")


def _grpo(config: Config) -> str:
    from ssr1_rl.run import run_grpo
    from ssr1_rl.store.export import choose_checkpoint, export_checkpoint

    summary = run_grpo(config)
    run_dir = Path(config.run.dir)
    checkpoint = choose_checkpoint(run_dir, "best")
    export = run_dir / "export"
    if export.exists():
        shutil.rmtree(export)
    export_checkpoint(checkpoint, config.model.path, export, config.model.dtype)
    before, after = summary.get("accuracy_before_grpo"), summary.get("accuracy_after_grpo")
    change = f", accuracy {before:.1%} -> {after:.1%}" if before is not None and after is not None else ""
    return f"{summary['num_steps']:.0f} steps{change}; step {checkpoint.step} is exported"


def is_needed(stage: str, responses: str) -> bool:
    """Whether SFT on these responses (`sft.responses`) needs what a stage makes."""
    needless = {"labels": ("generate", "verify"), "kept": ("verify",)}
    return stage not in needless.get(responses, ())


def _evaluate(config: Config) -> str:
    from ssr1_rl.checks.eval_preflight import preflight_eval
    from ssr1_rl.evaluation.run import run_evaluation

    results = run_evaluation(config, preflight_eval(config).splits)
    first = results.splits[0]
    scores = ", ".join(f"{name} {results.accuracy(name, first):.1%}" for name in results.models)
    return f"{first}: {scores}"


def _check_generate(config: Config) -> None:
    from ssr1_rl.checks.distill_rules import check_distill

    check_distill(config, "generate")


def _check_verify(config: Config) -> None:
    from ssr1_rl.checks.distill_rules import check_distill

    check_distill(config, "verify")


def _check_sft(config: Config) -> None:
    from ssr1_rl.checks.sft_rules import check_sft

    check_sft(config)


def _check_grpo(config: Config) -> None:
    from ssr1_rl.checks.rules import check_rules

    check_rules(config)


def _check_evaluate(config: Config) -> None:
    from ssr1_rl.checks.eval_rules import check_eval_rules

    check_eval_rules(config)


STAGES = (
    Stage(
        "generate",
        "distill",
        version=1,
        unread=("verifier.", "data.validation."),
        wiring=lambda folder, recipe: {},
        inputs=_generate_inputs,
        outputs=lambda folder: [folder.chains],
        check=_check_generate,
        run=_generate,
    ),
    Stage(
        "verify",
        "distill",
        version=1,
        unread=("teacher.", "data.validation."),
        wiring=lambda folder, recipe: {"verifier": {"chains": str(folder.chains)}},
        inputs=_verify_inputs,
        outputs=lambda folder: [folder.verified],
        check=_check_verify,
        run=_verify,
    ),
    Stage(
        "sft",
        "sft",
        version=1,
        unread=("evaluation.",),
        wiring=lambda folder, recipe: {
            "sft": {"chains": str(folder.chains if recipe.sft.responses == "kept" else folder.verified)}
        },
        inputs=_sft_inputs,
        outputs=lambda folder: [folder.sft_model],
        check=_check_sft,
        run=_sft,
    ),
    Stage(
        "grpo",
        "grpo",
        version=1,
        unread=(),
        wiring=lambda folder, recipe: {"model": {"path": str(folder.sft_model)}},
        inputs=_grpo_inputs,
        outputs=lambda folder: [folder.grpo_model],
        check=_check_grpo,
        run=_grpo,
    ),
    Stage(
        "evaluate",
        "eval",
        version=1,
        unread=("data.train.",),
        wiring=lambda folder, recipe: {
            "evaluation": {
                "models": {
                    "pretrained": recipe.model.path,
                    "sft": str(folder.sft_model),
                    "grpo": str(folder.grpo_model),
                }
            }
        },
        inputs=_evaluate_inputs,
        outputs=lambda folder: [folder.table],
        check=_check_evaluate,
        run=_evaluate,
    ),
)
