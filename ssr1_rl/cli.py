"""The `ssr1-rl` command: one function per sub-command. Heavy imports wait until they are needed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from ssr1_rl.errors import ConfigError

app = typer.Typer(
    help="GRPO for audio-language models: vLLM rollouts, DeepSpeed learners and reward actors on Ray.",
    epilog="SSR1_RL_DEBUG=1 in the environment shows the traceback of every error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXIT_FINDINGS = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Runs the command; what a user can fix is printed as a sentence, not as a traceback.

    SSR1_RL_DEBUG=1 shows the traceback as well.
    """
    try:
        app()
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped")
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if os.environ.get("SSR1_RL_DEBUG") or not _is_explained(error):
            raise
        console = Console(stderr=True)
        console.print(f"[bold red]error:[/] {escape(_sentence(error))}", soft_wrap=True)
        console.print("(SSR1_RL_DEBUG=1 shows the traceback)", style="dim")
        sys.exit(EXIT_USER)


def _is_explained(error: Exception) -> bool:
    """Whether the message is meant for the user; any other error is a bug, and its traceback is shown."""
    cause = _cause(error)
    if cause is not error:
        return _is_explained(cause)
    return isinstance(error, ValueError | RuntimeError | OSError) or type(error).__module__.startswith("ray.")


def _sentence(error: Exception) -> str:
    cause = _cause(error)
    return str(cause) or type(cause).__name__


def _cause(error: Exception) -> Exception:
    """Unwraps the error that an actor raised from Ray's error; returns any other error unchanged."""
    cause = getattr(error, "cause", None) if type(error).__module__.startswith("ray.") else None
    return _cause(cause) if isinstance(cause, Exception) else error


@contextmanager
def _exit_when_interrupted() -> Iterator[None]:
    from ssr1_rl.run import Interrupted

    try:
        yield
    except Interrupted as stop:
        Console(stderr=True).print(escape(str(stop)), soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)


@app.command()
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

    with _exit_when_interrupted():
        summary = run_grpo(config)
    rows = [{"figure": name, "value": value} for name, value in summary.items()]
    summary_table(f"{config.run.name}: done", rows)
    print(f"the results are in {config.run.dir}; `ssr1-rl export {config.run.dir}` writes a Hugging Face folder")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder of the demo")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of world, model and training", min=0)] = 0,
    fresh: Annotated[bool, typer.Option(help="first remove what an earlier demo left in the folder")] = True,
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides of the GRPO settings")] = None,
) -> None:
    """Runs everything on two CPU cores: makes sounds and a tiny audio-language model, trains it with SFT and GRPO."""
    from ssr1_rl.demo.run import run_demo

    with _exit_when_interrupted():
        run_demo(output, seed, fresh, overrides or [])


@app.command()
def soundworld(
    output: Annotated[Path, typer.Argument(help="folder for world/ and sft/")],
    seed: Annotated[int, typer.Option(help="seed of sounds, questions and weights", min=0)] = 0,
) -> None:
    """Makes the data and the model of launch/local.yaml: synthetic sounds, and a tiny model after SFT."""
    from ssr1_rl.demo.run import make_soundworld

    make_soundworld(output, seed)
    print(f"made {output}/world and {output}/sft")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a run (run.dir)")],
    step: Annotated[str, typer.Option(help="which checkpoint: last, best, or a step")] = "best",
    output: Annotated[Path | None, typer.Option(help="folder to write; default: RUN/export")] = None,
    dtype: Annotated[str, typer.Option(help="dtype of the weights, bfloat16 or float32; default: the run's")] = "",
    adapter: Annotated[bool, typer.Option("--adapter", help="write only the LoRA adapter, for peft")] = False,
) -> None:
    """Writes a checkpoint as a Hugging Face folder that transformers and vLLM load, LoRA adapters merged in."""
    from ssr1_rl.checks.rules import load_config
    from ssr1_rl.store.export import base_model_folder, choose_checkpoint, export_checkpoint

    settings = run / "config.yaml"
    if not settings.is_file():
        raise ValueError(f"{run} is not the folder of a run (it has no config.yaml); give the run.dir of a GRPO run")
    config = load_config(settings)
    checkpoint = choose_checkpoint(run, step)
    folder = output or run / "export"
    base_model = base_model_folder(run, config.model.path, config.run.dir)
    export_checkpoint(checkpoint, base_model, folder, dtype or config.model.dtype, adapter)
    print(f"wrote step {checkpoint.step} to {folder}")


@app.command()
def doctor(
    file: Annotated[Path | None, typer.Argument(help="launch file (YAML); without one only the machines")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: grpo.group_size=16")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="also make one tiny GRPO step with the real model")] = False,
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
