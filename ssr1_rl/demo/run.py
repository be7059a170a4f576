"""Runs the demo: a world of sounds, a tiny audio-language model, SFT, then GRPO, on two CPU cores."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bars
from transformers.utils import logging as transformers_logging

from ssr1_rl.checks.rules import load_config
from ssr1_rl.config.schema import Config
from ssr1_rl.config.sections.data import DataConfig
from ssr1_rl.data.audio import as_clip, load_waveform
from ssr1_rl.data.prompt import PromptBuilder, choice_lines
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.soundworld import SPLITS, WorldPaths, WorldSettings, make_world
from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio
from ssr1_rl.distill.sft import Sft, SftExample, SftSettings
from ssr1_rl.run import Summary, run_grpo
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.types import Question

SETTINGS = Path(__file__).parent / "demo.yaml"
SFT_STEPS = 270
"""Enough steps for the student to answer like the teacher of the chains, including its mistakes."""


def run_demo(output: Path, seed: int, fresh: bool, overrides: Sequence[str]) -> None:
    """Makes the world and the SFT model if they do not exist, runs GRPO, prints the results and where they are.

    `fresh` deletes `output` first.
    """
    started = time.monotonic()
    if fresh and output.exists():
        shutil.rmtree(output)
    make_soundworld(output, seed)
    config = demo_config(output, seed, overrides)
    Console().print("GRPO, with validation before and after")
    summary = run_grpo(config)
    summary["wall_s"] = time.monotonic() - started
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    _report(output, summary)


def demo_config(output: Path, seed: int, overrides: Sequence[str]) -> Config:
    """Loads demo.yaml with the folders and the seed of this demo."""
    world = WorldPaths(output / "world")
    folders = [f"run.name=demo-{seed}", f"run.dir={output}", f"run.seed={seed}", f"model.path={output / 'sft'}"]
    for section, split in [("train", "train"), *((f"validation.{split}", split) for split in SPLITS[1:])]:
        folders += [f"data.{section}.path={world.questions(split)}", f"data.{section}.audio_dir={world.audio_dir}"]
    return load_config(SETTINGS, [*folders, *overrides])


def make_soundworld(output: Path, seed: int, settings: WorldSettings | None = None, sft_steps: int = SFT_STEPS) -> None:
    """Makes `output`/world, and `output`/sft: a tiny model after a short SFT on templated chains of thought.

    A world or model that exists is kept.
    """
    transformers_logging.disable_progress_bar()
    world = make_world(output / "world", settings or WorldSettings(seed=seed))
    if (output / "sft").exists():
        return
    data = DataConfig(train=world.dataset("train"), instruction="")
    chains: dict[str, str] = json.loads(world.chains.read_text())
    questions = read_questions(data.train, data.max_skipped_share).questions
    texts = [q.text + "".join(choice_lines(q)) for q in questions] + list(chains.values())
    base = build_tiny_qwen2_audio(output / "random_weights", texts, seed)
    builder = PromptBuilder(str(base), data)
    examples = [sft_example(question, chains[question.id], builder, data) for question in questions]
    sft = Sft(base, SftSettings(num_steps=sft_steps, seed=seed))
    with Bars() as bars:
        task = bars.add_task("SFT", total=sft_steps)

        def on_step(step: int, loss: float) -> None:
            bars.update(task, completed=step, description=f"SFT step {step}  loss {loss:.3f}")

        sft.train(examples, on_step)
    sft.save(output / "sft")


def sft_example(question: Question, chain: str, builder: PromptBuilder, data: DataConfig) -> SftExample:
    """Makes an example of a question, with its chain of thought as the response."""
    waveforms = [load_waveform(ref, max_audio_s=data.max_audio_s) for ref in question.audio]
    response: list[int] = builder.tokenizer(chain, add_special_tokens=False)["input_ids"]
    eos_token_id = builder.tokenizer.eos_token_id
    assert isinstance(eos_token_id, int), "every chat model has one end-of-sequence token"
    prepared = builder.prepare(question, list(map(as_clip, waveforms)), [len(waveform) for waveform in waveforms])
    return SftExample(prepared, (*response, eos_token_id))


def _report(output: Path, summary: Summary) -> None:
    rows = [
        {
            "split": split,
            "before GRPO": f"{summary[f'accuracy_before_grpo_{split}']:.1%}",
            "after GRPO": f"{summary[f'accuracy_after_grpo_{split}']:.1%}",
        }
        for split in SPLITS[1:]
    ]
    summary_table("greedy accuracy on held-out questions", rows)
    Console(soft_wrap=True).print(
        f"{summary['num_steps']} steps of {summary['step_s']:.1f} s, {summary['wall_s']:.0f} s in all: "
        f"{summary['samples_per_s']:.0f} samples/s, {summary['rollout_tokens_per_s']:,.0f} rollout tokens/s, "
        f"{summary['learner_tokens_per_s']:,.0f} learner tokens/s\n"
        f"settings   {output}/config.yaml\n"
        f"figures    {output}/summary.json, {output}/metrics.jsonl, {output}/tensorboard\n"
        f"samples    {output}/samples\n"
        f"world      {output}/world\n"
        f"best model ssr1-rl export {output}",
        markup=False,
        highlight=False,
    )
