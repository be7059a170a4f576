"""The commands `ssr1-rl distill …`: one function per stage before SFT. Heavy imports wait until they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ssr1_rl.checks.distill_rules import Stage
    from ssr1_rl.config.schema import Config

app = typer.Typer(
    help="SightSound-R1: a vision teacher's chains of thought, checked against the sound.", no_args_is_help=True
)

# What looks like an unknown option (--teacher.num_chains=3) is refused as an override, with the fix.
OVERRIDES = {"ignore_unknown_options": True}


@app.command(context_settings=OVERRIDES)
def generate(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/distill.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: teacher.num_chains=8")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check everything; show one prompt, and count the requests; start nothing")
    ] = False,
) -> None:
    """Asks a vision-language model, which sees each question's silent video, for chains of thought; resumes.

    Writes run.dir/chains.parquet with every chain, kept or not, and why. docs/distill.md explains it.
    """
    config = _load(file, overrides, "generate")
    if dry_run:
        from ssr1_rl.distill.generation.dry_run import print_dry_run

        print_dry_run(config)
        return
    from ssr1_rl.distill.teacher import generate as generate_chains

    generate_chains(config)


@app.command(context_settings=OVERRIDES)
def verify(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/distill.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: verifier.threshold=0.7")] = None,
    dry_run: Annotated[
        bool, typer.Option(help="check everything; show the claims of a chain and one prompt; start nothing")
    ] = False,
) -> None:
    """Lets an audio-language model hear each clip and judge what the chains of thought claim about it; resumes.

    Writes run.dir/verified.parquet with every chain, validated or not, and why. docs/distill.md explains it.
    """
    config = _load(file, overrides, "verify")
    if dry_run:
        from ssr1_rl.distill.verification.dry_run import print_verify_dry_run

        print_verify_dry_run(config)
        return
    from ssr1_rl.distill.verifier import verify as verify_chains

    verify_chains(config)


@app.command(context_settings=OVERRIDES)
def calibrate(
    file: Annotated[Path, typer.Argument(help="launch file (YAML), such as launch/distill.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="dot-list overrides: verifier.labels=a.jsonl")] = None,
    dry_run: Annotated[bool, typer.Option(help="check everything; show one prompt; start nothing")] = False,
) -> None:
    """Compares the verifier's scores with chains that people have labelled, and finds the threshold for a precision.

    Writes run.dir/calibration.json, .csv and .png. docs/distill.md explains the file of labels and the figures.
    """
    config = _load(file, overrides, "calibrate")
    if dry_run:
        from ssr1_rl.distill.verification.dry_run import print_calibrate_dry_run

        print_calibrate_dry_run(config)
        return
    from ssr1_rl.distill.calibrate import calibrate as calibrate_verifier

    calibrate_verifier(config)


def _load(file: Path, overrides: list[str] | None, stage: Stage) -> Config:
    """The stage's settings; notes on those that have no effect are printed."""
    from ssr1_rl.checks.distill_rules import load_distill
    from ssr1_rl.checks.notes import notes_on_answers

    config = load_distill(file, overrides or [], stage)
    for line in notes_on_answers(config, ("teacher" if stage == "generate" else "verifier",)):
        typer.echo(f"note: {line}")
    return config
