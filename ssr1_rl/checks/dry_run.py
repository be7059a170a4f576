"""Shows what a run would do without starting anything: settings, placement, and an estimate of memory."""

import torch
from rich.console import Console

from ssr1_rl.checks.memory import MemoryEstimate, estimate_memory
from ssr1_rl.checks.notes import notes
from ssr1_rl.checks.preflight import preflight
from ssr1_rl.cluster import make_plan
from ssr1_rl.config.load import config_to_yaml
from ssr1_rl.config.presets import describe_preset
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.learner import LearnerConfig
from ssr1_rl.config.sections.model import ModelConfig
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.trainer.attention.choice import choose_attention

GIB = 2**30


def print_dry_run(config: Config) -> None:
    """Prints the settings and the placement, runs the checks of a real run, and prints the memory estimate.

    Raises:
        ValueError: a real run would refuse these settings too.
    """
    Console().print(config_to_yaml(config), markup=False, highlight=False)
    for line in describe_preset(config.grpo) + [f"note: {line}" for line in notes(config)]:
        Console().print(line, markup=False, highlight=False, soft_wrap=True)
    plan = make_plan(config)
    summary_table("placement", [{"who": who, "number": count, "each": each} for who, count, each in plan.rows()])
    preflight(config)
    estimate = estimate_memory(config)
    print(f"attention of the learners: {_attention(config.model, config.run.device)}")
    title = f"memory estimate: {estimate.num_parameters:,} parameters, {estimate.num_trained:,} trained"
    summary_table(title, _memory_rows(estimate, config.learner))
    print("nothing was started")


def _memory_rows(estimate: MemoryEstimate, learner: LearnerConfig) -> list[dict[str, str]]:
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
    lines += [
        ("engine, each device", "weights", estimate.engine_weights),
        ("engine, each device", "during a weight sync, beyond its share, roughly", estimate.engine_sync),
    ]
    return [{"process": process, "what": what, "GiB": f"{size / GIB:.2f}"} for process, what, size in lines]


def _attention(model: ModelConfig, device: str) -> str:
    wanted = model.attn_implementation
    if device == "cuda" and not torch.cuda.is_available():
        return f"{wanted}, chosen where the learners run, because this machine has no GPU"
    return str(choose_attention(wanted, device, model.dtype))
