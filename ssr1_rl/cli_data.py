"""`ssr1-rl data check` and `ssr1-rl data show`: what the data of a launch file is like, before a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssr1_rl.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from ssr1_rl.config.schema import Config
    from ssr1_rl.config.sections.data import DatasetConfig
    from ssr1_rl.data.check.measure import Measured, Media
    from ssr1_rl.data.check.report import Report
    from ssr1_rl.data.example import Example
    from ssr1_rl.data.prompt import PromptBuilder
    from ssr1_rl.data.splits import Split
    from ssr1_rl.types import Question

app = typer.Typer(help="Looks at the data of a launch file.", no_args_is_help=True)

EXIT_FINDINGS = 1
MAX_CHARS = 4000
"""Longest text of a sample that is shown; a prompt may be a megabyte."""

# What looks like an unknown option is refused as an override, with the fix.
OVERRIDES = {"ignore_unknown_options": True}

Spec = Annotated[Path, typer.Argument(help="launch file (YAML); its section `data` is read")]
Overrides = Annotated[list[str] | None, typer.Argument(help="dot-list overrides: data.max_audio_s=10")]


@app.command(context_settings=OVERRIDES)
def check(
    file: Spec,
    overrides: Overrides = None,
    num: Annotated[int, typer.Option("--num", "-n", help="rows to show of each kind of finding", min=1)] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print every finding as JSON")] = False,
) -> None:
    """Reads every split, decodes every clip, and lists what is missing, broken, too long, double or wrong.

    Exit code 1: something is wrong.
    """
    from rich.console import Console

    from ssr1_rl.connection import connected
    from ssr1_rl.data.check.findings import check_data
    from ssr1_rl.data.check.on_ray import measure_on_ray
    from ssr1_rl.data.check.report import ERRORS
    from ssr1_rl.data.check.splits import read_data_settings
    from ssr1_rl.inference.progress import StageProgress
    from ssr1_rl.telemetry.progress import default_console

    config, splits = read_data_settings(file, overrides or [])
    console = Console(stderr=True) if as_json else default_console()

    def measure(files: Sequence[Media]) -> list[Measured]:
        if not files:
            return []
        with connected(), StageProgress("clips and videos", len(files), console=console) as progress:
            return measure_on_ray(
                files, config.data, lambda done: progress.count(len(done), sum(one.kind in ERRORS for one in done))
            )

    report = check_data(splits, measure)
    if as_json:
        print(json.dumps(report.as_json(), indent=1))
    else:
        _print_report(report, num, console)
    if not report.is_ok:
        sys.exit(EXIT_FINDINGS)


@app.command(context_settings=OVERRIDES)
def show(
    file: Spec,
    overrides: Overrides = None,
    num: Annotated[int, typer.Option("--num", "-n", help="number of samples", min=1)] = 5,
    split: Annotated[
        str, typer.Option(help="train, the name of a validation split, or its section in the file; default: the first")
    ] = "",
    model: Annotated[str, typer.Option(help="model folder or name on the hub; default: model.path of the file")] = "",
) -> None:
    """Prints samples as the model gets them: prompt, tokens, seconds of audio, answer, metadata."""
    from omegaconf import MISSING
    from rich.text import Text

    from ssr1_rl.data.check.splits import read_data_settings
    from ssr1_rl.data.prompt import PromptBuilder
    from ssr1_rl.telemetry.progress import default_console, printable

    config, splits = read_data_settings(file, overrides or [])
    path = model or (config.model.path if config.model.path != MISSING else "")
    if not path:
        raise UserError(f"{file} names no model, whose tokenizer makes the prompts; give one: --model PATH")
    found = _read(splits, split, num)
    builder = PromptBuilder(path, config.data)
    console = default_console()
    for question in found.questions:
        for style, text in _lines(question, builder, config):
            console.print(Text(printable(text, console), style=style), soft_wrap=True)
    if found.skipped:
        example = printable(str(found.skipped[0]), console)
        note = f"rows among these that cannot be read: {len(found.skipped):,}, for example {example}"
        console.print(Text(f"{note}; ssr1-rl data check lists them", style="red"), soft_wrap=True)


def _read(splits: dict[str, DatasetConfig], wanted: str, num: int) -> Split:
    """The first questions of a split, which is named by its section or the last part of that."""
    from ssr1_rl.data.splits import read_split

    by_name = {setting.rpartition(".")[2]: setting for setting in reversed(splits)} | {name: name for name in splits}
    setting = by_name.get(wanted) if wanted else next(iter(splits))
    if setting is None:
        raise UserError(f"--split {wanted}: there is no such split; the settings name {', '.join(splits)}")
    dataset = splits[setting]
    dataset.max_questions = min(num, dataset.max_questions or num)
    return read_split(dataset, setting, max_skipped_share=1.0)


def _lines(question: Question, builder: PromptBuilder, config: Config) -> Iterator[tuple[str, str]]:
    """The lines that show a question, each with its style."""
    from ssr1_rl.data.example import example_of
    from ssr1_rl.data.skipped import UNUSABLE

    try:
        example = example_of(question, builder, config.data)
    except UNUSABLE as error:
        yield "bold", f"{question.source}, id {question.id}"
        yield "red", f"cannot be used: {error}"
        return
    yield "bold", str(example)
    yield "", _cut(example.prompt)
    yield from (("cyan", _cut(line)) for line in _facts(example))


def _facts(example: Example) -> Iterator[str]:
    question = example.question
    yield f"answer: {question.ground_truth}"
    if question.kind:
        yield f"kind: {question.kind}"
    for clip in question.audio:
        yield f"clip: {clip.path}"
    if question.video is not None:
        yield f"video: {question.video.path or f'{len(question.video.stills)} stills, {question.video.stills[0]} …'}"
    if question.metadata:
        yield f"metadata: {json.dumps(dict(question.metadata), ensure_ascii=False, default=str)}"
    yield ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]} … ({len(text):,} characters)"


def _print_report(report: Report, num: int, console: Console) -> None:
    from rich.text import Text

    from ssr1_rl.telemetry.progress import printable, summary_table

    rows = [
        {
            "split": split.split,
            "format": split.format,
            "rows": split.num_rows,
            "questions": split.num_questions,
            "clips": split.num_clips,
            "hours": f"{split.audio_s / 3600:.2f}",
            "longest": f"{split.longest_s:.1f} s",
            "videos": split.num_videos,
            "findings": ", ".join(f"{kind} {count:,}" for kind, count in report.counts(split.split).items()) or "none",
        }
        for split in report.splits
    ]
    if rows:
        summary_table("data", rows, console)
    for split in dict.fromkeys(finding.split for finding in report.findings):
        for kind, count in report.counts(split).items():
            found = report.of_kind(split, kind)
            style = "bold red" if found[0].is_error else "bold"
            console.print(Text(f"{split}: {kind}: {count:,}{'' if found[0].is_error else ' (a note)'}", style=style))
            for finding in found[:num]:
                line = Text(printable(f"  {finding.where}: {finding.reason}", console))
                console.print(line, soft_wrap=True)
            if count > num:
                console.print(f"  … and {count - num:,} more")
    for note in report.notes:
        console.print(Text(printable(f"note: {note}", console)), soft_wrap=True)
    console.print("nothing is wrong" if report.is_ok else "something is wrong: fix these rows and files")
