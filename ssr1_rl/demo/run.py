"""Runs the demo: a world of sounds, a tiny audio-language model, SFT, then GRPO, on two CPU cores."""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import Progress as Bars
from transformers.utils import logging as transformers_logging

from ssr1_rl.checks.rules import load_config
from ssr1_rl.checks.sft_rules import load_sft
from ssr1_rl.config.schema import Config
from ssr1_rl.data.prompt import choice_lines
from ssr1_rl.data.read import read_questions
from ssr1_rl.demo.soundworld import SPLITS, WorldPaths, WorldSettings, make_world
from ssr1_rl.demo.tiny_models import build_tiny_qwen2_audio
from ssr1_rl.distill.finetuning.alone import train_alone
from ssr1_rl.distill.finetuning.examples import Example
from ssr1_rl.distill.finetuning.messages import Figures, Message
from ssr1_rl.distill.finetuning.rank import SftJob
from ssr1_rl.errors import UserError
from ssr1_rl.files import PARTIAL, write_json
from ssr1_rl.run import Summary, run_grpo
from ssr1_rl.store.export import choose_checkpoint, export_checkpoint
from ssr1_rl.store.folder import claim
from ssr1_rl.telemetry.progress import summary_table

SETTINGS = Path(__file__).parent / "demo.yaml"
RUN_NAME = "demo-"
"""Start of `run.name` of every demo; its seed follows."""
SFT_STEPS = 270
"""Enough steps for the student to answer like the teacher of the chains, including its mistakes."""
RANDOM_WEIGHTS, SFT_RUN = ".random_weights", ".sft_run"
"""Folders of the model before SFT, and of the run that trains it."""

MADE_BY = "ssr1-rl demo"
STAMP = "demo.json"
"""File that a demo writes first into its folder. Only in a folder with it does a later demo remove anything."""
MADE_BY_DEMO = (
    *("world", ".world.partial", "sft", RANDOM_WEIGHTS, SFT_RUN, "checkpoints", "samples", "tensorboard", "set_aside"),
    *("config.yaml", "metrics.jsonl", "skipped.jsonl", "summary.json", "error.log", "trackers.json", "wandb"),
)
"""What a demo leaves in its folder. Everything else there is the user's and stays."""


def run_demo(output: Path, seed: int, fresh: bool, overrides: Sequence[str]) -> None:
    """Makes the world and the SFT model if they do not exist, runs GRPO, prints the results and where they are.

    `fresh` first removes what an earlier demo left in `output`.

    Raises:
        UserError: `output` holds anything, and no demo made it.
    """
    started = time.monotonic()
    _refuse_foreign(output)
    with claim(output, "--output"):
        _refuse_foreign(output)
        if fresh:
            _remove_earlier_demo(output)
        config = demo_config(output, seed, overrides)
        write_json(output / STAMP, {"made_by": MADE_BY, "run.name": config.run.name})
        make_soundworld(output, seed)
        Console().print("GRPO, with validation before and after")
        summary = run_grpo(config, claimed=Path(config.run.dir).resolve() == output.resolve())
        summary["wall_s"] = time.monotonic() - started
        write_json(output / "summary.json", summary)
    _report(output, summary)


def _refuse_foreign(output: Path) -> None:
    """Refuses a folder with content unless a demo made it and no other run has used it since."""
    if not output.is_dir() or all(path.name == ".lock" for path in output.iterdir()):
        return  # a file is refused by `claim`
    fix = "move it away, or give another folder by --output"
    try:
        stamp = dict(json.loads((output / STAMP).read_bytes()))
    except (OSError, ValueError, TypeError):
        stamp = {}
    if stamp.get("made_by") != MADE_BY:
        raise UserError(f"{output} is not empty and was not made by this demo (it has no {STAMP} of one); {fix}")
    settings = output / "config.yaml"
    if not settings.exists():
        return
    try:
        name = yaml.safe_load(settings.read_bytes())["run"]["name"]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{settings} is not a demo's: {error!r}; {fix}") from error
    if name != stamp.get("run.name") and not str(name).startswith(RUN_NAME):
        raise UserError(f"{output} holds the run {name!r}, which is not the demo's ({settings}); {fix}")


def _remove_earlier_demo(output: Path) -> None:
    for path in (output / name for name in MADE_BY_DEMO):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)  # of a link only the link


def demo_config(output: Path, seed: int, overrides: Sequence[str]) -> Config:
    """Loads demo.yaml with the folders and the seed of this demo."""
    world = WorldPaths(output / "world")
    folders = [f"run.name={RUN_NAME}{seed}", f"run.dir={output}", f"run.seed={seed}", f"model.path={output / 'sft'}"]
    for section, split in [("train", "train"), *((f"validation.{split}", split) for split in SPLITS[1:])]:
        folders += [f"data.{section}.path={world.questions(split)}", f"data.{section}.audio_dir={world.audio_dir}"]
    return load_config(SETTINGS, [*folders, *overrides])


def make_soundworld(output: Path, seed: int, settings: WorldSettings | None = None, sft_steps: int = SFT_STEPS) -> None:
    """Makes `output`/world, and `output`/sft: a tiny model after a short SFT on templated chains of thought.

    A world or model that exists is kept.
    """
    transformers_logging.disable_progress_bar()
    world = make_world(output / "world", settings or WorldSettings(seed=seed))
    sft_folder = output / "sft"
    if (sft_folder / "config.json").is_file():
        return
    if sft_folder.exists() and any(path.name != PARTIAL for path in sft_folder.iterdir()):
        raise UserError(f"{sft_folder} is not empty and holds no model; move it away, or choose another folder")
    config = _sft_config(output, seed, world, sft_steps)
    chains: dict[str, str] = json.loads(world.chains.read_text())
    questions = read_questions(config.data.train, config.data.max_skipped_share).questions
    texts = [q.text + "".join(choice_lines(q)) for q in questions] + list(chains.values())
    build_tiny_qwen2_audio(output / RANDOM_WEIGHTS, texts, seed)
    shutil.rmtree(output / SFT_RUN, ignore_errors=True)
    with Bars() as bars:
        task = bars.add_task("SFT", total=sft_steps)

        def show(message: Message) -> None:
            if isinstance(message, Figures):
                loss = message.metrics["train/loss"]
                bars.update(task, completed=message.step, description=f"SFT step {message.step}  loss {loss:.3f}")

        train_alone(SftJob(config, [Example(q, (chains[q.id],)) for q in questions], []), show)
    export_checkpoint(choose_checkpoint(output / SFT_RUN, "last"), config.model.path, sft_folder, config.model.dtype)


def _sft_config(output: Path, seed: int, world: WorldPaths, num_steps: int) -> Config:
    """Settings of the demo's SFT, with which the student answers like the teacher of the chains."""
    train = world.dataset("train")
    values: dict[str, object] = {
        "run.name": f"sft-{seed}",
        "run.dir": output / SFT_RUN,
        "run.device": "cpu",
        "run.seed": seed,
        "model.path": output / RANDOM_WEIGHTS,
        "model.dtype": "float32",
        "model.train_audio_tower": "true",
        "data.train.path": train.path,
        "data.train.audio_dir": train.audio_dir,
        "data.instruction": "''",
        "learner.zero_stage": 0,
        "learner.num_threads": torch.get_num_threads(),
        "learner.learning_rate": 1e-3,
        "learner.lr_schedule": "linear",
        "learner.warmup_steps": 50,
        "learner.decay_steps": 800,
        "learner.weight_decay": 0.01,
        "sft.responses": "labels",
        "sft.num_epochs": 1000,
        "sft.max_steps": num_steps,
        "sft.questions_per_step": 32,
        "sft.validate_every": 0,
        "checkpoint.every": num_steps,
        "telemetry.tensorboard": "false",
    }
    return load_sft(None, [f"{name}={value}" for name, value in values.items()])


def _report(output: Path, summary: Summary) -> None:
    def share(when: str, split: str) -> str:
        value = summary.get(f"accuracy_{when}_grpo_{split}")
        return "not validated" if value is None else f"{value:.1%}"

    rows = [
        {"split": split, "before GRPO": share("before", split), "after GRPO": share("after", split)}
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
