"""The `ssr1-rl` command: one function per sub-command. Heavy imports wait until they are needed."""

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ssr1_rl import cli_data, cli_distill
from ssr1_rl.errors import IN_THE_LOG, ConfigError, Explained, Interrupted, UserError, named_by_the_user, original

app = typer.Typer(
    help="GRPO for audio-language models: vLLM rollouts, DeepSpeed learners and reward actors on Ray.",
    epilog="SSR1_RL_DEBUG=1 in the environment shows the traceback of every error. Exit codes: docs/failures.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_distill.app, name="distill")

EXIT_FINDINGS = 1
EXIT_UNEXPECTED = 1
EXIT_USER = 2
EXIT_RUN = 3
EXIT_INTERRUPTED = 130
MAX_CHARS = 1000
"""Longest message of an unexpected error that is shown; the whole is in the log."""


def main() -> None:
    """Runs the command. An error is a sentence, its traceback is in a file; SSR1_RL_DEBUG=1 prints it instead.

    Exit codes: 0; 1 for a bug or a failure outside this package; 2 for what the user has to change; 3 for a run that
    cannot continue; 75 for a run whose run.max_time_s is over; 130 for a run that was stopped by a signal.
    """
    try:
        app()
    except Interrupted as stop:
        Console(stderr=True).print(escape(str(stop)), soft_wrap=True)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get("SSR1_RL_DEBUG"):
            raise
        sys.exit(_told(error, Console(stderr=True)))


def _told(error: Exception, console: Console) -> int:
    """Prints an error and its notes; returns the exit code."""
    cause = original(error)
    notes = list(getattr(error, "__notes__", []))
    if isinstance(cause, Explained):
        sentence = str(cause) or type(cause).__name__
    else:
        words = " ".join(str(cause).split())
        shown = words if len(words) <= MAX_CHARS else f"{words[:MAX_CHARS]} …"
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}".removeprefix("builtins.")
        sentence = f"unexpected {kind}, a bug of ssr1_rl or a failure outside it: {shown or 'no message'}"
        if not any(note.startswith(IN_THE_LOG) for note in notes):
            notes.append(f"the traceback is in {_keep_traceback(error)}")
    console.print(f"[bold red]error:[/] {escape(sentence)}", soft_wrap=True)
    for note in [*notes, "SSR1_RL_DEBUG=1 shows the traceback here"]:
        console.print(f"({note})", style="dim", markup=False, highlight=False, soft_wrap=True)
    if not isinstance(cause, Explained):
        return EXIT_UNEXPECTED
    return EXIT_USER if isinstance(cause, UserError) else EXIT_RUN


def _keep_traceback(error: Exception) -> str:
    """Writes the traceback of an error that no run has written to its folder; returns the file's path."""
    with tempfile.NamedTemporaryFile("w", prefix="ssr1-rl-", suffix="-error.log", delete=False) as file:
        file.write("".join(traceback.format_exception(error)))
    return file.name


# What looks like an unknown option (--grpo.num_steps=3) is refused as an override, with the fix.
OVERRIDES = {"ignore_unknown_options": True}


@app.command(context_settings=OVERRIDES)
def grpo(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/local.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: grpo.group_size=16")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check everything; print settings, placement and memory estimate; start nothing")
    ] = False,
) -> None:
    """Trains a model with GRPO, or resumes the run in run.dir.

    Every setting is explained in docs/settings.md and ssr1_rl/config/sections/. Algorithms by name:
    grpo.preset=grpo, dapo, dr_grpo, gspo, cispo, rloo, lite_ppo, gdpo, gmpo, sapo, icepop, reinforce_pp_baseline
    or reinforce_pp.
    """
    from ssr1_rl.checks.rules import load_config

    config = load_config(file, overrides or [])
    if dry_run:
        from ssr1_rl.checks.dry_run import print_dry_run

        print_dry_run(config)
        return
    from ssr1_rl.run import run_grpo
    from ssr1_rl.telemetry.progress import summary_table

    summary = run_grpo(config)
    rows = [{"figure": name, "value": value} for name, value in summary.items()]
    summary_table(f"{config.run.name}: done", rows)
    print(f"the results are in {config.run.dir}; `ssr1-rl export {config.run.dir}` writes a Hugging Face folder")


@app.command("eval", context_settings=OVERRIDES)
def evaluate(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/eval.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: evaluation.num_samples=8")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check everything; print settings, splits, models and prompts; start nothing")
    ] = False,
) -> None:
    """Compares models on every split of data.validation, by the benchmarks' official rules; resumes in run.dir.

    docs/evaluation.md explains the scores and lists the files.
    """
    from ssr1_rl.checks.eval_rules import load_eval

    config = load_eval(file, overrides or [])
    from ssr1_rl.checks.eval_preflight import preflight_eval

    checked = preflight_eval(config)
    if dry_run:
        from ssr1_rl.checks.eval_dry_run import print_eval_dry_run

        print_eval_dry_run(config, checked)
        return
    from ssr1_rl.evaluation.run import print_results, run_evaluation

    for line in checked.notes:
        Console().print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    print_results(run_evaluation(config, checked.splits))
    print(f"the results are in {config.run.dir}: results.json, table.md, table.csv")


@app.command(context_settings=OVERRIDES)
def recipe(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/recipe.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="dot-list overrides: grpo.group_size=16, stages.sft.sft.num_epochs=2")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check the settings of all stages; print which would run and their cost; start nothing")
    ] = False,
) -> None:
    """Runs SightSound-R1 whole: generate, verify, SFT, GRPO, evaluate. A stage that is done is not run again."""
    if dry_run:
        from ssr1_rl.recipe.dry_run import print_recipe_dry_run

        print_recipe_dry_run(file, overrides or [])
        return
    from ssr1_rl.recipe.run import run_recipe

    run_recipe(file, overrides or [])


@app.command(context_settings=OVERRIDES)
def sft(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/sft.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: sft.num_epochs=2")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check everything; print settings, examples, steps and memory; start nothing")
    ] = False,
) -> None:
    """Trains a model with SFT on chains of thought or labels, or resumes the run in run.dir; exports it for GRPO.

    The model is written to run.dir/export. docs/sft.md explains it.
    """
    from ssr1_rl.checks.sft_rules import load_sft

    config = load_sft(file, overrides or [])
    if dry_run:
        from ssr1_rl.distill.finetuning.dry_run import print_dry_run

        print_dry_run(config)
        return
    from ssr1_rl.distill.sft import run_sft
    from ssr1_rl.telemetry.progress import summary_table

    summary = run_sft(config)
    summary_table(f"{config.run.name}: done", [{"figure": name, "value": value} for name, value in summary.items()])
    print(f"the model is in {config.run.dir}/export: give it to GRPO as model.path")


@app.command(context_settings=OVERRIDES)
def demo(
    output: Annotated[Path, typer.Option(help="folder of the demo")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of world, model and training", min=0)] = 0,
    fresh: Annotated[bool, typer.Option(help="first remove what an earlier demo left in the folder")] = True,
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides of the GRPO settings")] = None,
) -> None:
    """Runs everything on two CPU cores: makes sounds and a tiny audio-language model, trains it with SFT and GRPO."""
    from ssr1_rl.demo.run import run_demo

    with named_by_the_user("--output", output):
        run_demo(output, seed, fresh, overrides or [])


@app.command()
def soundworld(
    output: Annotated[Path, typer.Argument(help="folder for world/ and sft/")],
    seed: Annotated[int, typer.Option(help="seed of sounds, questions and weights", min=0)] = 0,
) -> None:
    """Makes the data and the model of launch/local.yaml: synthetic sounds, and a tiny model after SFT."""
    from ssr1_rl.demo.run import make_soundworld

    with named_by_the_user("OUTPUT", output):
        make_soundworld(output, seed)
    print(f"made {output}/world and {output}/sft")


@app.command()
def sightworld(
    output: Annotated[Path, typer.Argument(help="folder for world/, student/, teacher/ and verifier/")],
    seed: Annotated[int, typer.Option(help="seed of sounds, sights, questions and weights", min=0)] = 0,
    tiny: Annotated[bool, typer.Option("--tiny", help="some clips and steps, to try that all runs")] = False,
) -> None:
    """Makes the data and the models of launch/recipe_local.yaml: sounds with silent videos that mislead a teacher."""
    from ssr1_rl.demo.sightworld.make import make_sight_world_and_models

    with named_by_the_user("OUTPUT", output):
        make_sight_world_and_models(output, seed, tiny)
    print(f"made {output}/world, {output}/student, {output}/teacher and {output}/verifier")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a run (run.dir)")],
    step: Annotated[str, typer.Option(help="which checkpoint: last, best, or a step")] = "best",
    output: Annotated[Path | None, typer.Option(help="folder to write; default: RUN/export")] = None,
    dtype: Annotated[str, typer.Option(help="dtype of the weights, bfloat16 or float32; default: the run's")] = "",
    adapter: Annotated[bool, typer.Option("--adapter", help="write only the LoRA adapter, for peft")] = False,
) -> None:
    """Writes a checkpoint as a Hugging Face folder that transformers and vLLM load, LoRA adapters merged in."""
    from ssr1_rl.config.load import read_run_and_model
    from ssr1_rl.store.export import base_model_folder, choose_checkpoint, export_checkpoint

    settings = run / "config.yaml"
    if not settings.is_file():
        raise UserError(
            f"{run} is not the folder of a run (it has no config.yaml); give the run.dir of a GRPO or SFT run"
        )
    run_settings, model = read_run_and_model(settings)
    checkpoint = choose_checkpoint(run, step)
    folder = output or run / "export"
    base_model = base_model_folder(run, model.path, run_settings.dir)
    with named_by_the_user("--output", folder):
        export_checkpoint(checkpoint, base_model, folder, dtype or model.dtype, adapter)
    print(f"wrote step {checkpoint.step} to {folder}")


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="launch file (YAML); without one only the machines")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: grpo.group_size=16")] = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="also make one tiny GRPO step with the real model, and save it in a folder that is removed"
        ),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 for warnings too")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of text")] = False,
) -> None:
    """Checks versions, nodes, model, data, memory and storage before a run. Exit code 1: something has to change."""
    from ssr1_rl.checks.rules import load_config
    from ssr1_rl.doctor import examine, report

    if deep and file is None:
        raise ConfigError("--deep makes a step of a run, so it needs a launch file: ssr1-rl doctor FILE --deep")
    console = Console(stderr=as_json)
    config = load_config(file, overrides or []) if file else None
    with console.status("") as status:
        done = examine.examine(
            config,
            deep,
            # The step has a display of its own.
            begin=lambda topic: status.stop() if topic == examine.ONE_STEP else status.update(f"checking {topic} …"),
            end=lambda topic, findings: None if as_json else report.print_findings(topic, findings, console),
        )
    if as_json:
        print(report.as_json(done.findings))
    if done.worst() == "error" or (strict and done.worst() == "warning"):
        sys.exit(EXIT_FINDINGS)


if __name__ == "__main__":
    main()
