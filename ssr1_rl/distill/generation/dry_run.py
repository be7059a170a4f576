"""`ssr1-rl distill generate --dry-run`: checks what the stage would check, and shows what it would ask."""

from __future__ import annotations

from rich.console import Console

from ssr1_rl.config.environment import without_values
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.teacher import TeacherConfig
from ssr1_rl.distill.asked import Asked, Example, example_of, is_teacher_here, questions_to_ask
from ssr1_rl.telemetry.progress import printable, summary_table

NUM_SHOWN = 5
"""Rows that are left out, and are shown."""


def print_dry_run(config: Config) -> None:
    """Reads the questions, decodes one video, builds one prompt, and prints what would be asked; starts nothing.

    Raises:
        UserError: the stage would refuse these settings or this data too.
    """
    asked = questions_to_ask(config)
    summary_table("teacher", _rows(config, asked))
    for row in asked.left_out[:NUM_SHOWN]:
        _say(f"note: left out: {row.source}: {row.reason}")
    if len(asked.left_out) > NUM_SHOWN:
        _say(f"note: … and {len(asked.left_out) - NUM_SHOWN:,} more")
    _print_example(example_of(asked.questions, config, is_teacher_here(config)), config.teacher)
    _say("nothing was started")


def _rows(config: Config, asked: Asked) -> list[dict[str, object]]:
    teacher = config.teacher
    num = len(asked.questions)
    engines = teacher.engines
    each = f"{engines.tensor_parallel_size} GPUs" if config.run.device == "cuda" else f"{engines.num_cpus:g} CPUs"
    figures: list[tuple[str, object]] = [
        ("model", teacher.model),
        ("server", teacher.endpoint.url) if teacher.endpoint.url else ("engines", f"{engines.num_engines} x {each}"),
        ("questions", num),
        ("left out", len(asked.left_out)),
        ("chains per question", teacher.num_chains),
        ("requests", num * teacher.num_chains),
        ("tokens of responses, at most", num * teacher.num_chains * teacher.max_response_tokens),
        ("chains are kept by", teacher.keep),
        ("output", f"{config.run.dir}/chains.parquet"),
    ]
    return [{"figure": name, "value": value} for name, value in figures]


def _print_example(example: Example, teacher: TeacherConfig) -> None:
    sizes = ", ".join(dict.fromkeys(f"{width} x {height}" for width, height in example.sizes))
    tokens = f", {example.num_tokens} tokens with one for each frame" if example.num_tokens else ""
    where = example.question.source or f"question {example.question.id}"
    _say(f"one question ({where}): {len(example.sizes)} frames of {sizes}{tokens}")
    if example.prompt:
        _say(without_values(example.prompt, [teacher.system_prompt, teacher.instruction]))
    else:
        _say("left out: its prompt, because the model is not downloaded yet; a run checks it")


def _say(text: str) -> None:
    console = Console()
    console.print(printable(text, console), markup=False, highlight=False, soft_wrap=True)
