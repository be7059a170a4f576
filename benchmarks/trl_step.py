"""Measure GRPO steps of TRL, the system that benchmarks/end_to_end.py compares with.

Run it with the Python of `make venv-trl`. TRL generates with transformers (its
default) and trains in float32 on the CPU. Every response has exactly
--max-new-tokens tokens, so that two systems can do equal work. Warm-up steps
are not counted. The last line of stdout is one JSON object.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a causal language model with its tokenizer")
    parser.add_argument("--prompts", type=Path, required=True, help='JSONL with one {"prompt": "text"} per line')
    parser.add_argument("--num-questions", type=int, default=8, help="prompts per step (default 8)")
    parser.add_argument("--group-size", type=int, default=8, help="responses per prompt (default 8)")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="tokens of every response (default 64)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default 5)")
    parser.add_argument("--warmup-steps", type=int, default=1, help="steps before these, not timed (default 1)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="seed of TRL's trainer (default 0)")
    args = parser.parse_args()
    for name in ("num_questions", "max_new_tokens", "steps", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.group_size < 2:
        parser.error(f"--group-size must be at least 2 for group-relative advantages, got {args.group_size}")
    if args.warmup_steps < 0:
        parser.error(f"--warmup-steps must be at least 0, got {args.warmup_steps}")
    return args


def read_prompts(path: Path, at_least: int) -> list[dict[str, str]]:
    rows = [{"prompt": json.loads(line)["prompt"]} for line in path.read_text().splitlines() if line.strip()]
    if len(rows) < at_least:
        sys.exit(f"{path} has {len(rows)} prompts; one step takes {at_least} (--num-questions)")
    return rows


def share_of_a(completions: list[str], **_: object) -> list[float]:
    """The reward: cheap, and different within a group."""
    return [completion.count("a") / max(len(completion), 1) for completion in completions]


def main() -> None:
    args = parse_args()
    rows = read_prompts(args.prompts, at_least=args.num_questions)
    # Both before torch and transformers are imported.
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    os.environ["HF_HUB_OFFLINE"] = "1"
    print(json.dumps(figures(args, train(args, rows)) | {"versions": versions()}), flush=True)


def train(args: argparse.Namespace, rows: list[dict[str, str]]) -> list[float]:
    """Trains; returns the clock at the start and at the end of every step."""
    import datasets
    import torch
    import transformers
    import trl

    torch.set_num_threads(args.threads)
    clock_s: list[float] = []

    class StepTimes(transformers.TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            clock_s.append(time.perf_counter())

        def on_step_end(self, *_: object, **__: object) -> None:
            clock_s.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output_dir:
        trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
            processing_class=transformers.AutoTokenizer.from_pretrained(args.model),
            reward_funcs=share_of_a,
            args=trl.GRPOConfig(output_dir=output_dir, **settings(args)),
            train_dataset=datasets.Dataset.from_list(rows),
            callbacks=[StepTimes()],
        )
        trainer.train()
    check_lengths(trainer.state.log_history, args.max_new_tokens)
    return clock_s


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """TRL's settings."""
    return {
        "per_device_train_batch_size": args.num_questions * args.group_size,
        "num_generations": args.group_size,
        "max_completion_length": args.max_new_tokens,
        "generation_kwargs": {"min_new_tokens": args.max_new_tokens},
        "max_steps": args.warmup_steps + args.steps,
        "learning_rate": 1e-6,
        "beta": 0.0,
        "temperature": 1.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": args.seed,
    }


def check_lengths(logs: list[dict[str, float]], expected: int) -> None:
    """Fails unless every response had `expected` tokens."""
    names = ("completions/min_length", "completions/max_length")
    lengths = {log[name] for log in logs for name in names if name in log}
    assert lengths == {expected}, f"responses have {lengths} tokens, not {expected}: the work is not equal"


def figures(args: argparse.Namespace, clock_s: list[float]) -> dict[str, Any]:
    """The figures of the steps after the warm-up, and the sizes."""
    assert len(clock_s) == 1 + args.warmup_steps + args.steps, "the trainer did not do the number of steps that was set"
    s_per_step = (clock_s[-1] - clock_s[args.warmup_steps]) / args.steps
    return {
        "samples_per_s": args.num_questions * args.group_size / s_per_step,
        "s_per_step": s_per_step,
        "steps": args.steps,
        "step_times_s": [end - start for start, end in itertools.pairwise(clock_s)],
        "warmup_steps": args.warmup_steps,
        "num_questions": args.num_questions,
        "group_size": args.group_size,
        "response_tokens": args.max_new_tokens,
        "threads": args.threads,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that TRL uses."""
    packages = ("torch", "transformers", "trl")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages}


if __name__ == "__main__":
    main()
