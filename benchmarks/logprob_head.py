"""Measure the learner's log-prob head against a plain one: peak memory and time of a forward and backward pass.

The plain head computes the logits of all tokens at once, in float32, then their log-softmax and
entropy. The learner's computes them for a chunk of tokens at a time, and again in the backward
pass. The vocabulary has the size of Qwen2-Audio's. Each side runs in a process of its own, to
measure its own peak memory; hidden states, the head's weight and their gradients, which both
sides need, are not counted. The last line of stdout is one JSON object.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import PeakMemory, argument_parser, timed, warn_if_busy, write_result
from plots import OURS, PEER, new_figure, save
from torch import Tensor
from torch.nn.functional import linear

from ssr1_rl.types import SOFTMAX, Distribution

VOCABULARY = 156_032
WAYS = ("plain", "chunked")


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--vocabulary", type=int, default=VOCABULARY, help="number of output tokens (default: %(default)s)"
    )
    parser.add_argument(
        "--hidden-size", type=int, default=512, help="width of the hidden states (default: %(default)s)"
    )
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[512, 1024], help="numbers of tokens in a pass (default: 512 1024)"
    )
    parser.add_argument("--repeats", type=int, default=3, help="timed passes of each side (default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="device of both sides (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="dtype of the head's weight and input (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=2, help="compute threads on a CPU (default: %(default)s)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # set for the process of each side
    args = parser.parse_args()
    if args.tiny:
        args.vocabulary, args.hidden_size, args.repeats = 1000, 16, 1
        args.tokens = args.tokens if args.way else [32, 64]
    for name in ("vocabulary", "hidden_size", "repeats", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if min(args.tokens) < 1:
        parser.error(f"--tokens must be at least 1, got {min(args.tokens)}")
    return args


def main() -> None:
    args = parse_args()
    if args.way:
        print(json.dumps(measure(args, args.tokens[0])))
        return
    if not args.tiny:
        warn_if_busy()
    cases = []
    for num_tokens in args.tokens:
        case: dict[str, Any] = {"tokens": num_tokens, **{way: in_own_process(way, num_tokens) for way in WAYS}}
        plain, chunked = case["plain"], case["chunked"]
        difference = abs(plain["checksum"] - chunked["checksum"])
        assert difference <= 1e-2 * abs(plain["checksum"]), "the sides computed different gradients"
        case["memory_ratio"] = plain["peak_mib"] / max(chunked["peak_mib"], 1e-9)
        case["speedup"] = plain["median_s"] / chunked["median_s"]
        print({name: case[name] for name in ("tokens", "memory_ratio", "speedup")}, flush=True)
        cases.append(case)
    settings = ("vocabulary", "hidden_size", "repeats", "device", "dtype", "threads")
    largest = {name: cases[-1][name] for name in ("memory_ratio", "speedup")}
    result = {**largest, "cases": cases, **{name: getattr(args, name) for name in settings}}
    write_result("logprob_head", result, args.results, plot)


def in_own_process(way: str, num_tokens: int) -> dict[str, float]:
    """Runs `measure` in a new process, with the arguments of this one."""
    command = [sys.executable, *sys.argv, "--way", way, "--tokens", str(num_tokens)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def measure(args: argparse.Namespace, num_tokens: int) -> dict[str, float]:
    """Peak memory of a pass beyond its inputs, and the median time."""
    from ssr1_rl.trainer.model.logprobs import token_logprobs

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    make = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    hidden = torch.randn(num_tokens, args.hidden_size, **make).requires_grad_()
    weight = torch.randn(args.vocabulary, args.hidden_size, **make).mul_(0.02).requires_grad_()
    targets = torch.randint(args.vocabulary, (num_tokens,), device=args.device)
    advantages = torch.randn(num_tokens, device=args.device)

    def forward_and_backward(num: int) -> None:
        hidden.grad = weight.grad = None
        way = plain_logprobs if args.way == "plain" else token_logprobs
        logprobs, _ = way(hidden[:num], weight, None, targets[:num], SOFTMAX)
        (logprobs * advantages[:num]).sum().backward()

    # Not measured: libraries load, threads start and the gradients are allocated.
    forward_and_backward(1)
    peak = PeakMemory(args.device)
    seconds = [timed(args.device, lambda: forward_and_backward(num_tokens)) for _ in range(args.repeats)]
    assert hidden.grad is not None, "the pass computed no gradient"
    return {
        "peak_mib": peak.added_mib(),
        "median_s": statistics.median(seconds),
        "checksum": float(hidden.grad.double().norm()),
    }


def plain_logprobs(
    hidden_TH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, targets_T: Tensor, distribution: Distribution
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies from all logits at once."""
    logits_TV = linear(hidden_TH, weight_VH, bias_V).float() / distribution.temperature
    log_normalizer_T = torch.logsumexp(logits_TV, dim=-1)
    logprobs_T = logits_TV.gather(-1, targets_T[:, None])[:, 0] - log_normalizer_T
    with torch.no_grad():
        entropy_T = log_normalizer_T - (torch.softmax(logits_TV, dim=-1) * logits_TV).sum(-1)
    return logprobs_T, entropy_T


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws peak memory and time of both sides by the number of tokens."""
    tokens = [case["tokens"] for case in result["cases"]]
    figure, panels = new_figure(
        f"The log-prob head at a vocabulary of {result['vocabulary']:,}, by tokens of a pass", 8, 3, num_panels=2
    )
    for axes, name, title, text in (
        (panels[0], "peak_mib", "peak memory, MiB", "{:,.0f}"),
        (panels[1], "median_s", "forward and backward, s", "{:.2g}"),
    ):
        # Labels of the plain head go above its line, those of the chunked one below.
        for way, colour, above in (("plain", PEER, True), ("chunked", OURS, False)):
            values = [case[way][name] for case in result["cases"]]
            axes.plot(tokens, values, marker="o", color=colour)
            style = {"va": "bottom" if above else "top", "fontsize": 8, "color": colour}
            for x, value in zip(tokens, values, strict=True):
                label = f" {text.format(value)} {way}" if x == tokens[-1] else text.format(value)
                place = {"xytext": (0, 6 if above else -6), "textcoords": "offset points"}
                axes.annotate(label, (x, value), **place, ha="left" if x == tokens[-1] else "center", **style)
        axes.margins(x=0.35, y=0.2)
        axes.set_ylim(bottom=0)
        axes.set_xticks(tokens)
        axes.set_title(title, fontsize=9, loc="left")
    save(figure, path)


if __name__ == "__main__":
    main()
