"""`ssr1-rl sft --dry-run`: checks what the run would check, and shows what it would learn."""

from __future__ import annotations

from rich.console import Console

from ssr1_rl.checks.dry_run import learner_memory_rows
from ssr1_rl.checks.memory import estimate_memory
from ssr1_rl.config.model_path import is_here
from ssr1_rl.config.schema import Config
from ssr1_rl.config.written import shown_yaml
from ssr1_rl.distill.finetuning.checks import Checked, check_run
from ssr1_rl.telemetry.progress import printable, summary_table


def print_dry_run(config: Config) -> None:
    """Reads data and chains, checks the model, and prints settings, steps, one response and the memory; starts nothing.

    Raises:
        Explained: a run would refuse these settings or this data too.
    """
    _say(shown_yaml(config))
    checked = check_run(config)
    for line in checked.notes:
        _say(f"note: {line}")
    summary_table("what is learned", _rows(config, checked))
    example = checked.examples.train[0]
    _say(f"one response (question {example.question.id}): {example.responses[0]}")
    if is_here(config.model.path):
        estimate = estimate_memory(config)
        title = f"memory estimate: {estimate.num_parameters:,} parameters, {estimate.num_trained:,} trained"
        summary_table(title, learner_memory_rows(estimate, config.learner))
    else:
        _say("left out: the memory estimate, because the model is not downloaded yet")
    _say("nothing was started")


def _rows(config: Config, checked: Checked) -> list[dict[str, object]]:
    ranks = config.learner.num_workers
    figures: list[tuple[str, object]] = [
        ("responses", config.sft.responses),
        ("questions", len(checked.examples.train)),
        ("responses of them", checked.examples.num_responses),
        ("questions held out", len(checked.examples.held_out)),
        ("steps", checked.plan.num_steps),
        ("ranks", ranks),
        ("trained", f"LoRA of rank {config.model.lora.rank}" if config.model.lora.rank else "the policy"),
        ("output", f"{config.run.dir}/export"),
    ]
    return [{"figure": name, "value": value} for name, value in figures]


def _say(text: str) -> None:
    console = Console()
    console.print(printable(text, console), markup=False, highlight=False, soft_wrap=True)
