"""The demo: a world of sounds, a tiny audio-language model, an SFT start, and GRPO, on two CPU cores."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress as Bars
from transformers.utils import logging as transformers_logging

from ssr1_rl.config import Config, DataConfig
from ssr1_rl.config_loading import load_config
from ssr1_rl.data.audio import load_waveform
from ssr1_rl.data.prompt import PromptBuilder, choice_lines
from ssr1_rl.data.read import read_questions
from ssr1_rl.data.soundworld import SPLITS, WorldPaths, WorldSettings, make_world
from ssr1_rl.distill.sft import Sft, SftExample, SftSettings
from ssr1_rl.rewards.accuracy import Accuracy
from ssr1_rl.run_grpo import run_grpo
from ssr1_rl.telemetry.progress import summary_table
from ssr1_rl.tiny_models import build_tiny_qwen2_audio
from ssr1_rl.types import Completion, Question

SETTINGS = Path(__file__).parent / "demo.yaml"
SFT_STEPS = 300
"""SFT steps at most; see `HalfTrained`."""

TARGET_ACCURACY = 0.78
HELD_OUT = 256
"""Training questions that SFT does not see and is judged by."""


def run_demo(output: Path, seed: int, fresh: bool, overrides: Sequence[str]) -> None:
    """Runs every part and prints where everything lies; see the README for what to expect."""
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
    """demo.yaml (launch/local.yaml) with this demo's folders and seed."""
    world = WorldPaths(output / "world")
    folders = [f"run.name=demo-{seed}", f"run.dir={output}", f"run.seed={seed}", f"model.path={output / 'sft'}"]
    for section, split in [("train", "train"), *((f"validation.{split}", split) for split in SPLITS[1:])]:
        folders += [f"data.{section}.path={world.questions(split)}", f"data.{section}.audio_dir={world.audio_dir}"]
    return load_config(SETTINGS, [*folders, *overrides])


def make_soundworld(output: Path, seed: int, settings: WorldSettings | None = None, sft_steps: int = SFT_STEPS) -> None:
    """Makes `output`/world and `output`/sft: the tiny model after a short SFT on templated chains of thought.

    What is already whole is kept.
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
    stop = HalfTrained(sft, builder, questions[-HELD_OUT:], examples[-HELD_OUT:])
    with Bars() as bars:
        task = bars.add_task("SFT", total=None)

        def on_step(step: int, loss: float) -> bool:
            done = stop(step)
            text = f"SFT step {step}  loss {loss:.3f}  held-out accuracy {stop.accuracy:.2f}"
            bars.update(task, completed=step, description=text)
            return done

        sft.train(examples[:-HELD_OUT], on_step)
    sft.save(output / "sft")


def sft_example(question: Question, chain: str, builder: PromptBuilder, data: DataConfig) -> SftExample:
    """A question's prompt, and its chain of thought as the response."""
    waveforms = [load_waveform(ref, max_audio_s=data.max_audio_s) for ref in question.audio]
    response = builder.tokenizer(chain, add_special_tokens=False)["input_ids"]
    return SftExample(builder.build(question, waveforms), (*response, builder.tokenizer.eos_token_id))


class HalfTrained:
    """Says when SFT is to stop: once `TARGET_ACCURACY` of held-out training questions are answered greedily.

    Different seeds get there after different numbers of steps; beyond it GRPO would have nothing left to show.
    """

    FIRST_STEP, EVERY = 130, 5

    def __init__(
        self, sft: Sft, builder: PromptBuilder, questions: Sequence[Question], examples: Sequence[SftExample]
    ) -> None:
        self._sft, self._builder, self._questions, self._examples = sft, builder, questions, examples
        self._accuracy = Accuracy()
        self.accuracy = 0.0

    def __call__(self, step: int) -> bool:
        """Whether SFT is to stop after `step`."""
        if step < self.FIRST_STEP or step % self.EVERY:
            return False
        eos = self._builder.tokenizer.eos_token_id
        answers = self._sft.greedy_responses(self._examples, max_tokens=24, eos_id=eos)
        right = [
            self._accuracy(question, [Completion(answer, (), self._builder.decode(answer), "stop")])[0]
            for question, answer in zip(self._questions, answers, strict=True)
        ]
        self.accuracy = sum(right) / len(right)
        return self.accuracy >= TARGET_ACCURACY


def _report(output: Path, summary: dict[str, Any]) -> None:
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
