"""Shows what a run would do without starting anything: settings, placement, questions, and an estimate of memory."""

import torch
from rich.console import Console

from ssr1_rl.checks.memory import MemoryEstimate, estimate_memory
from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import Preflight, preflight
from ssr1_rl.cluster import make_plan
from ssr1_rl.config.environment import without_values
from ssr1_rl.config.model_path import is_here
from ssr1_rl.config.presets import describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.config.written import shown_yaml
from ssr1_rl.data.splits import Split
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.trainer.attention.choice import choose_attention

GIB = 2**30


def print_dry_run(config: Config) -> None:
    """Prints the settings and the placement, runs the checks of a real run, and prints what they read and the memory.

    Raises:
        ValueError: a real run would refuse these settings too.
    """
    Console().print(shown_yaml(config), markup=False, highlight=False)
    for line in describe_preset(config.grpo) + [f"note: {line}" for line in notes(config)]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    plan = make_plan(config)
    summary_table("placement", [{"who": who, "number": count, "each": each} for who, count, each in plan.rows()])
    _print_questions(preflight(config), config.data)
    print(f"attention of the learners: {_attention(config.model, config.run.device)}")
    _print_memory(config)
    print("nothing was started")


def _print_memory(config: Config) -> None:
    try:
        estimate = estimate_memory(config)
    except OSError as error:
        if is_here(config.model.path):
            raise
        reason = str(error).partition("\n")[0]
        print(f"left out: the memory estimate, because {config.model.path} cannot be downloaded ({reason})")
        return
    title = f"memory estimate: {estimate.num_parameters:,} parameters, {estimate.num_trained:,} trained"
    summary_table(title, _memory_rows(estimate, config.learner))


def _print_questions(checked: Preflight, data: DataConfig) -> None:
    summary_table("questions", [split_row(split) for split in checked.splits])
    for line in checked.notes:
        Console().print(f"note: {line}", markup=False, highlight=False, soft_wrap=True)
    if not checked.examples:
        print("left out: prompts and the model's shapes, because the model is not downloaded yet; a run checks them")
        return
    print(f"one prompt ({checked.examples[0]}):")
    prompt = without_values(checked.examples[0].prompt, [data.system_prompt, data.instruction])
    Console().print(prompt, markup=False, highlight=False, soft_wrap=True)


def split_row(split: Split) -> dict[str, str]:
    """What was read of a split, as a row of a table."""
    num = len(split.questions)
    clips = ", ".join(f"{count:,} {suffix}" for suffix, count in split.clip_formats.items())
    return {
        "split": split.setting,
        "format": split.dataset.format,
        "questions": f"{num:,}",
        "left out": f"{len(split.skipped):,}",
        "with audio": f"{split.num_with_audio:,} ({split.num_with_audio / num:.0%})",
        "clips": clips or "none",
    }


def _memory_rows(estimate: MemoryEstimate, learner: LearnerConfig) -> list[dict[str, str]]:
    engine = [
        ("weights", estimate.engine_weights),
        ("during a weight sync, beyond its share, roughly", estimate.engine_sync),
    ]
    of_engine = [_memory_row("engine, each device", what, size) for what, size in engine]
    return learner_memory_rows(estimate, learner) + of_engine


def learner_memory_rows(estimate: MemoryEstimate, learner: LearnerConfig) -> list[dict[str, str]]:
    """The memory of a learner rank, part by part, for a table."""
    offloaded = set[str]()
    if learner.offload_optimizer != "none":
        # From stage 2 on, the sums of gradients are where the optimizer is.
        offloaded = {"optimizer", "gradients"} if learner.zero_stage >= 2 else {"optimizer"}
    if learner.offload_parameters != "none":
        offloaded |= {"weights", "reference model"}
    parts = [
        ("weights", estimate.learner_weights),
        ("gradients", estimate.learner_gradients),
        ("optimizer", estimate.learner_optimizer),
        ("reference model", estimate.learner_reference),
        ("buffers of DeepSpeed, roughly", estimate.learner_buffers),
        ("activations and logits, roughly", estimate.learner_activations),
        ("gradient of the head", estimate.learner_head),
    ]
    on_device = sum(size for what, size in parts if what not in offloaded)
    lines = [(f"learner rank{', host' * (what in offloaded)}", what, size) for what, size in parts]
    lines.append(("learner rank", "together", on_device))
    return [_memory_row(*line) for line in lines]


def _memory_row(process: str, what: str, size: float) -> dict[str, str]:
    return {"process": process, "what": what, "GiB": f"{size / GIB:.2f}"}


def _attention(model: ModelConfig, device: str) -> str:
    wanted = model.attn_implementation
    if device == "cuda" and not torch.cuda.is_available():
        return f"{wanted}, chosen where the learners run, because this machine has no GPU"
    return str(choose_attention(wanted, device, model.dtype))
