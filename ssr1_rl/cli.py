"""The `ssr1-rl` command: one function per sub-command. Heavy imports wait until they are needed."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    help="GRPO for audio-language models: vLLM rollouts, DeepSpeed learners and reward actors on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
        Console(stderr=True).print(f"[bold red]error:[/] {escape(_sentence(error))}", soft_wrap=True)
        sys.exit(EXIT_USER)


def _is_explained(error: Exception) -> bool:
    """Whether the message is meant for the user; anything else is a bug and shows its traceback."""
    return isinstance(error, ValueError | RuntimeError | OSError) or type(error).__module__.startswith("ray.")


def _sentence(error: Exception) -> str:
    # Ray wraps what an actor raised; the user wants the cause, not the wrapping.
    cause = getattr(error, "cause", None)
    return str(cause if isinstance(cause, Exception) else error) or type(error).__name__


@app.command()
def grpo(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/local.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: grpo.group_size=16")] = None,
    dry_run: Annotated[bool, typer.Option(help="print settings, placement and memory estimate; start nothing")] = False,
) -> None:
    """Trains by GRPO, or goes on with the run in run.dir."""
    from ssr1_rl.config_loading import load_config

    config = load_config(file, overrides or [])
    if dry_run:
        from ssr1_rl.dry_run import print_dry_run

        print_dry_run(config)
        return
    from ssr1_rl.run_grpo import Interrupted, run_grpo, summary_rows
    from ssr1_rl.telemetry.progress import summary_table

    try:
        summary = run_grpo(config)
    except Interrupted as stop:
        Console(stderr=True).print(escape(str(stop)), soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)
    summary_table(f"{config.run.name}: done", summary_rows(summary))
    print(f"everything lies in {config.run.dir}; `ssr1-rl export {config.run.dir}` writes a Hugging Face folder")


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder of the demo")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="seed of world, model and training", min=0)] = 0,
    fresh: Annotated[bool, typer.Option(help="remove what an earlier demo left in the folder first")] = True,
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides of the GRPO settings")] = None,
) -> None:
    """A whole run on two CPU cores: makes sounds and a tiny audio-language model, and trains it by SFT and GRPO."""
    from ssr1_rl.demo import run_demo
    from ssr1_rl.run_grpo import Interrupted

    try:
        run_demo(output, seed, fresh, overrides or [])
    except Interrupted as stop:
        Console(stderr=True).print(escape(str(stop)), soft_wrap=True)
        sys.exit(EXIT_INTERRUPTED)


@app.command()
def soundworld(
    output: Annotated[Path, typer.Argument(help="folder for world/ and sft/")],
    seed: Annotated[int, typer.Option(help="seed of sounds, questions and weights", min=0)] = 0,
) -> None:
    """Makes the demo's data and model alone, for launch/local.yaml: synthetic sounds, and a tiny model after SFT."""
    from ssr1_rl.demo import make_soundworld

    make_soundworld(output, seed)
    print(f"made {output}/world and {output}/sft")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="folder of a run (run.dir)")],
    step: Annotated[str, typer.Option(help="which checkpoint: last, best, or a step")] = "best",
    output: Annotated[Path | None, typer.Option(help="folder to write; default RUN/export")] = None,
    dtype: Annotated[str, typer.Option(help="of the weights: bfloat16, float32; default the run's")] = "",
    adapter: Annotated[bool, typer.Option("--adapter", help="of a LoRA run: the adapter alone, for peft")] = False,
) -> None:
    """Writes a checkpoint as a Hugging Face folder that transformers and vLLM load, LoRA adapters merged in."""
    from ssr1_rl.config_loading import load_config
    from ssr1_rl.export import choose_checkpoint, export_checkpoint

    settings = run / "config.yaml"
    if not settings.is_file():
        raise ValueError(f"{run} holds no run (no config.yaml); give the run.dir of a GRPO run")
    config = load_config(settings)
    checkpoint = choose_checkpoint(run, config.checkpoint, step)
    folder = output or run / "export"
    export_checkpoint(checkpoint, config.model.path, folder, dtype or config.model.dtype, adapter)
    print(f"wrote step {checkpoint.step} to {folder}")


if __name__ == "__main__":
    main()
