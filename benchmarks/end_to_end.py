"""Measure whole GRPO steps: rollouts, rewards, learner update and weight sync, as `ssr1-rl grpo` runs them.

There are two models: `text` (6 M parameters, prompts of 370 tokens, responses of exactly 64
tokens) and `lalm` (the demo's tiny Qwen2-Audio after a short SFT, with the settings of
launch/local.yaml: 24 questions x 10 responses per step, without validation and checkpoints).
With --peer trl, TRL's GRPOTrainer then trains the same text model with the same prompts and
sizes. Warm-up steps are not counted. The last line of stdout is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import argument_parser, mean, warn_if_busy, write_result
from plots import BLUE, GREEN, GREY, ORANGE, YELLOW, new_figure, save, without_values

HERE = Path(__file__).parent
REPOSITORY = HERE.parent
TRL_PYTHON = REPOSITORY / ".venv-trl" / "bin" / "python"


@dataclass(frozen=True)
class Sizes:
    """The amount of work; TRL uses the text model's sizes. `lalm_settings` override launch/local.yaml."""

    text_model: str
    num_questions: int
    group_size: int
    prompt_tokens: int
    response_tokens: int
    lalm_sft_clips: int
    lalm_sft_steps: int
    lalm_settings: tuple[str, ...] = ()


SMALL = Sizes("6m", 8, 8, 370, 64, 256, 60)
TINY = Sizes("tiny", 2, 2, 40, 8, 16, 2, ("grpo.questions_per_step=2", "grpo.group_size=2"))


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--models", nargs="+", choices=("text", "lalm"), default=["text", "lalm"], help="default: both")
    parser.add_argument("--peer", choices=("trl",), help="system to compare with on the text model")
    parser.add_argument(
        "--steps", type=int, default=5, help="timed steps of each system and model (default: %(default)s)"
    )
    parser.add_argument(
        "--warmup-steps", type=int, default=1, help="steps before these, not timed (default: %(default)s)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="overrides of the text run's settings, as in ssr1-rl grpo",
    )
    args = parser.parse_args()
    for name in ("steps", "warmup_steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.peer and "text" not in args.models:
        parser.error(f"--peer {args.peer} runs the text model; add text to --models")
    if args.peer == "trl" and not TRL_PYTHON.is_file():
        parser.error(f"--peer trl needs {TRL_PYTHON.parent.parent}; make it with `make venv-trl`")
    return args


def main() -> None:
    args = parse_args()
    if not args.tiny:
        warn_if_busy()
    sizes = TINY if args.tiny else SMALL
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ssr1-rl-bench-") as folder:
        if "text" in args.models:
            result |= measure_text(args, sizes, Path(folder) / "text")
        if "lalm" in args.models:
            result["lalm"] = measure_lalm(args, sizes, Path(folder) / "lalm")
    write_result("end_to_end", result, args.results, plot)


def measure_text(args: argparse.Namespace, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Our figures on the text model; with --peer also the peer's, and the ratio."""
    from text_task import make_text_task

    from ssr1_rl.checks.rules import load_config

    num_steps = args.warmup_steps + args.steps
    task = make_text_task(folder, sizes.text_model, num_steps * sizes.num_questions, sizes.prompt_tokens, args.seed)
    settings = [
        f"run.dir={folder / 'run'}",
        f"run.seed={args.seed}",
        f"model.path={task.model}",
        f"data.train.path={task.questions}",
        f"data.max_prompt_tokens={sizes.prompt_tokens}",
        f"rollout.max_response_tokens={sizes.response_tokens}",
        f"rewards.0.path={HERE / 'rewards.py'}:share_of_a",
        f"grpo.num_steps={num_steps}",
        f"grpo.questions_per_step={sizes.num_questions}",
        f"grpo.group_size={sizes.group_size}",
        *args.set,
    ]
    ours = run_and_read(load_config(HERE / "text.yaml", settings), args.warmup_steps)
    ours |= {"num_parameters": task.num_parameters, "prompt_tokens": task.prompt_tokens}
    result: dict[str, Any] = {"text": ours}
    if args.peer == "trl":
        trl = run_trl(args, sizes, task.model, task.prompts)
        result |= {"trl": trl, "ratio_vs_trl": ours["samples_per_s"] / trl["samples_per_s"]}
    return result


def measure_lalm(args: argparse.Namespace, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Our figures on the tiny audio-language model."""
    from ssr1_rl.demo.run import demo_config, make_soundworld
    from ssr1_rl.demo.soundworld import WorldSettings

    world_settings = WorldSettings(
        seed=args.seed,
        num_train=sizes.lalm_sft_clips,
        num_test=8,
        num_unseen_scenes=8,
        num_unseen_questions=8,
    )
    make_soundworld(folder, args.seed, world_settings, sizes.lalm_sft_steps)
    settings = [
        f"grpo.num_steps={args.warmup_steps + args.steps}",
        "grpo.validate_every=0",
        "grpo.validate_first=false",
        "checkpoint.every=1000000",
        *sizes.lalm_settings,
    ]
    return run_and_read(demo_config(folder, args.seed, settings), args.warmup_steps)


def run_and_read(config: Any, warmup_steps: int) -> dict[str, Any]:
    """Runs `config` as `ssr1-rl grpo` does and returns the figures of the steps after the warm-up."""
    from ssr1_rl.run import run_grpo
    from ssr1_rl.telemetry.metrics import read_metrics

    run_grpo(config)
    rows = [row for row in read_metrics(Path(config.run.dir)) if "time/step_s" in row]
    return step_figures(rows, warmup_steps) | {
        "warmup_steps": warmup_steps,
        "num_questions": config.grpo.questions_per_step,
        "group_size": config.grpo.group_size,
        "max_tokens_per_micro_batch": config.learner.max_tokens_per_micro_batch,
        "learner_ranks": config.learner.num_workers,
        "threads_per_learner_rank": config.learner.num_threads,
        "engines": config.rollout.num_workers,
        "threads_per_engine": config.rollout.num_threads,
    }


def step_figures(rows: Sequence[Mapping[str, float]], warmup_steps: int) -> dict[str, Any]:
    """The figures of a run's steps, from its metrics.

    A step lasts from the writing of one row to that of the next, so that work between two steps
    is counted too.
    """
    timed = rows[warmup_steps:]
    step_times_s = [
        row["time_s"] - before["time_s"] for before, row in zip(rows[warmup_steps - 1 :], timed, strict=False)
    ]
    total_s = sum(step_times_s)
    num_samples = sum(row["samples_per_s"] * row["time/step_s"] for row in timed)
    rollout_s = sum(row["rollout/tokens"] / row["rollout/tokens_per_s"] for row in timed)
    update_s = sum(row["train/update_s"] for row in timed)
    idle = {name: mean([row[name] for row in timed]) for name in timed[0] if "/idle_share" in name}
    return {
        "samples_per_s": num_samples / total_s,
        "rollout_tokens_per_s": sum(row["rollout/tokens"] for row in timed) / rollout_s,
        "learner_tokens_per_s": sum(row["train/row_tokens"] for row in timed) / update_s,
        "learner_computed_tokens_per_s": sum(row["train/computed_tokens"] for row in timed) / update_s,
        "weight_sync_s": mean([row["time/sync_s"] for row in timed]),
        "idle_share": {name.replace("/idle_share", ""): share for name, share in idle.items()},
        "s_per_step": total_s / len(timed),
        "rollout_wait_s": mean([row["time/rollout_wait_s"] for row in timed]),
        "update_s": mean([row["time/update_s"] for row in timed]),
        "step_times_s": step_times_s,
        "steps": len(timed),
        "response_tokens_mean": mean([row["rollout/response_tokens_mean"] for row in timed]),
        "zero_variance_share": mean([row["reward/zero_variance_share"] for row in timed]),
        "logprob_abs_diff_max": max(row["train/logprob_abs_diff_max"] for row in timed),
    }


def run_trl(args: argparse.Namespace, sizes: Sizes, model: Path, prompts: Path) -> dict[str, Any]:
    """TRL's figures at the same sizes: runs benchmarks/trl_step.py in its own environment."""
    options = {
        "model": model,
        "prompts": prompts,
        "num-questions": sizes.num_questions,
        "group-size": sizes.group_size,
        "max-new-tokens": sizes.response_tokens,
        "steps": args.steps,
        "warmup-steps": args.warmup_steps,
        "seed": args.seed,
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    print("running TRL", flush=True)
    done = subprocess.run(
        [str(TRL_PYTHON), str(HERE / "trl_step.py"), *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


STEP_PARTS = {"rollouts": BLUE, "update": ORANGE, "sync": YELLOW, "rest": GREEN}
MIN_LABELLED = 0.03
"""Smallest part that is labelled with its seconds, as a share of the longest step."""


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws the seconds of a mean step: ours by part, TRL's as a whole."""
    names = {"text": "text model, ours", "trl": "text model, TRL", "lalm": "tiny LALM, ours"}
    shown = [name for name in names if name in result]
    ratio = f"; {result['ratio_vs_trl']:.1f} × TRL's samples/s" if "ratio_vs_trl" in result else ""
    figure, [axes] = new_figure(f"Seconds of a GRPO step{ratio}", 8, 1.2 + 0.6 * len(shown))
    longest = max(result[name]["s_per_step"] for name in shown)
    for y, name in enumerate(shown):
        left = 0.0
        for seconds, colour in step_parts(result[name]):
            axes.barh(y, seconds, left=left, color=colour, height=0.6)
            if MIN_LABELLED * longest < seconds < result[name]["s_per_step"]:
                axes.text(left + seconds / 2, y, f"{seconds:.1f}", ha="center", va="center", color="white", fontsize=8)
            left += seconds
        axes.text(left, y, f"  {left:.1f} s, {result[name]['samples_per_s']:.3g} samples/s", va="center", fontsize=8)
    axes.set_yticks(range(len(shown)), [names[name] for name in shown])
    axes.invert_yaxis()
    axes.margins(x=0.3)
    without_values(axes)
    for x, (part, colour) in enumerate(STEP_PARTS.items()):
        axes.text(0.1 * x, 1.02, part, color=colour, fontsize=9, fontweight="bold", transform=axes.transAxes)
    save(figure, path)


def step_parts(side: Mapping[str, Any]) -> list[tuple[float, str]]:
    """Seconds and colour of each of `STEP_PARTS`; for TRL, of the whole step."""
    if "update_s" not in side:
        return [(side["s_per_step"], GREY)]
    known = [side["rollout_wait_s"], side["update_s"], side["weight_sync_s"]]
    return list(zip([*known, side["s_per_step"] - sum(known)], STEP_PARTS.values(), strict=True))


if __name__ == "__main__":
    sys.exit(main())
