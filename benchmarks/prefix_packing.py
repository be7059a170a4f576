"""Measure a GRPO group's forward and backward pass, packed against repeated.

Repeated, a group has one row for each response, each with the prompt and 30 s of padded mel frames:
transformers' own forward, and the head on the response tokens. Packed, a group is one row whose
prompt and audio are computed once: the learner's `Policy`. Both sides have the same weights, tokens
and loss; their gradients are compared. Each side runs in a process of its own, to measure its peak
memory. The sides take turns, and the fastest pass of each counts. A frozen audio tower runs forward
in every pass of both sides; its outputs are not cached.

The floor is the time that the operations of the packed row would take at the rate (operations per
second) of the repeated side. `share_of_floor` is the floor divided by the packed side's time.
The last line of stdout is one JSON object.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from common import PeakMemory, argument_parser, timed, warn_if_busy, write_result
from learner_pass import WINDOW_FRAMES, Group, ModelSizes, micro_batch, random_group, random_qwen2_audio
from model_flops import flops_of_pass
from plots import ORANGE, OURS, new_figure, save
from torch import Tensor

from ssr1_rl.types import SOFTMAX

CLIP_FRAMES = {60: 0, 310: 1000, 800: 3000}
"""Mel frames of the clip by tokens of the prompt: no clip, 10 s (250 of the tokens) and 30 s (750)."""
# This model has 13.8 M parameters.
SMALL = ModelSizes(
    layers=6,
    hidden_size=384,
    intermediate_size=1024,
    head_size=64,
    key_value_heads=2,
    vocab_size=512,
    tower_layers=4,
    tower_size=256,
)
TINY = ModelSizes(
    layers=1,
    hidden_size=128,
    intermediate_size=128,
    head_size=64,
    key_value_heads=2,
    vocab_size=64,
    tower_layers=1,
    tower_size=64,
)


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes of one group, and whether the audio tower is trained."""

    group_size: int
    prompt_tokens: int
    response_tokens: int
    train_tower: bool


HEADLINE = (8, 310, 150)
OTHERS = [Case(4, 310, 150, False), Case(8, 60, 150, False), Case(8, 800, 50, False), Case(8, 310, 400, False)]


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--grid", action="store_true", help="run every combination of the next three options, with a frozen tower"
    )
    parser.add_argument(
        "--group-sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="responses per prompt (default: 4 8 16 32)"
    )
    parser.add_argument(
        "--prompts",
        type=int,
        nargs="+",
        default=[60, 310, 800],
        choices=CLIP_FRAMES,
        help="tokens of the prompt (default: all)",
    )
    parser.add_argument(
        "--responses", type=int, nargs="+", default=[50, 150, 400], help="tokens of a response (default: 50 150 400)"
    )
    parser.add_argument(
        "--rounds", type=int, default=6, help="timed passes of each side in the headline cases (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="device of both sides (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=2, help="compute threads on a CPU (default: %(default)s)")
    args = parser.parse_args()
    for name in ("rounds", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if min(args.group_sizes + args.responses) < 1:
        parser.error("--group-sizes and --responses must be at least 1")
    return args


def main() -> None:
    args = parse_args()
    if not args.tiny:
        warn_if_busy()
    headline = [Case(*((2, 310, 5) if args.tiny else HEADLINE), tower) for tower in (True, False)]
    others = [] if args.tiny else OTHERS
    if args.grid:
        others = [Case(*sizes, False) for sizes in itertools.product(args.group_sizes, args.prompts, args.responses)]
    results = []
    for case in headline + [case for case in others if case not in headline]:
        # One timed pass is enough to compare the other cases with the headline cases.
        results.append(compare(case, args.rounds if case in headline else 1, args))
        print(results[-1], flush=True)
    trained, frozen = results[:2]
    result = {
        "speedup_trained_tower": trained["speedup"],
        "speedup_frozen_tower": frozen["speedup"],
        "share_of_floor": min(trained["share_of_floor"], frozen["share_of_floor"]),
        "max_grad_rel_diff": max(trained["grad_rel_diff"], frozen["grad_rel_diff"]),
        "cases": results,
        "rounds": args.rounds,
        "threads": args.threads,
        "device": args.device,
    }
    write_result("prefix_packing_grid" if args.grid else "prefix_packing", result, args.results, plot)


def compare(case: Case, rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    """Runs both sides of one case in turns; the first turn is a warm-up."""
    seconds: dict[str, list[float]] = {"repeated": [], "packed": []}
    with Side("repeated", case, args) as repeated, Side("packed", case, args) as packed:
        for index in range(rounds + 1):
            for side in (repeated, packed):
                elapsed = side.ask("pass")
                if index:
                    seconds[side.way].append(elapsed)
        grad_rel_diff = relative_difference(packed.ask("gradient"), repeated.ask("gradient"))
        peak_mib = {side.way: side.ask("peak_mib") for side in (repeated, packed)}
        operations = {side.way: side.ask("operations") for side in (repeated, packed)}
    # Other processes can only slow a pass down, so the fastest one is the least disturbed.
    fastest = {way: min(values) for way, values in seconds.items()}
    speedup = fastest["repeated"] / fastest["packed"]
    allowed = operations["repeated"] / operations["packed"]
    return {
        **dataclasses.asdict(case),
        "speedup": speedup,
        "speedup_allowed": allowed,
        "share_of_floor": speedup / allowed,
        "grad_rel_diff": grad_rel_diff,
        "memory_ratio": peak_mib["repeated"] / peak_mib["packed"],
        "peak_mib": peak_mib,
        "seconds": seconds,
        "floor_s": fastest["repeated"] / allowed,
        "tera_operations": {way: count / 1e12 for way, count in operations.items()},
    }


def relative_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Norm of the difference of two gradients, divided by the norm of the expected one; a missing one counts as 0."""
    nothing = torch.zeros(())
    pairs = [(found.get(name, nothing), expected.get(name, nothing)) for name in found.keys() | expected.keys()]
    difference = sum(float((mine.double() - theirs).square().sum()) for mine, theirs in pairs)
    return (difference / sum(float(theirs.double().square().sum()) for _, theirs in pairs)) ** 0.5


class Side:
    """One side of a case, in a process of its own that answers requests."""

    def __init__(self, way: str, case: Case, args: argparse.Namespace) -> None:
        self.way = way
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, way, case, args), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def ask(self, what: str) -> Any:
        """The answer to "pass" (runs one; its seconds), "gradient", "peak_mib" or "operations"."""
        self._connection.send(what)
        return self._connection.recv()

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join()


def serve(connection: Any, way: str, case: Case, args: argparse.Namespace) -> None:
    """The process of a `Side`: answers requests until the connection is closed."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    sizes = TINY if args.tiny else SMALL
    model = random_qwen2_audio(sizes, args.device)
    model.model.audio_tower.requires_grad_(case.train_tower)
    model.model.audio_tower.embed_positions.requires_grad_(False)
    frames = CLIP_FRAMES[case.prompt_tokens]
    of_text = case.prompt_tokens - frames // 4
    group = random_group(sizes.vocab_size, of_text, frames, case.group_size, case.response_tokens)
    advantages = torch.randn(case.group_size, 1, device=args.device)
    logprobs_of = {"repeated": repeated_way, "packed": packed_way}[way](model, group, args.device)

    def forward_and_backward() -> None:
        model.zero_grad()
        (-(advantages * logprobs_of()).mean()).backward()

    peak = PeakMemory(args.device)
    answers: dict[str, Callable[[], Any]] = {
        "pass": lambda: timed(args.device, forward_and_backward),
        "gradient": lambda: {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None},
        "peak_mib": peak.added_mib,
        "operations": lambda: num_operations(model, group, way),
    }
    for question in iter_questions(connection):
        connection.send(answers[question]())


def iter_questions(connection: Any) -> Iterator[str]:
    while True:
        try:
            yield connection.recv()
        except EOFError:
            return


def repeated_way(model: Any, group: Group, device: str) -> Callable[[], Tensor]:
    """transformers' own forward over G rows of prompt and response."""
    num_rows, prompt_length = len(group.responses), len(group.prompt)
    responses = group.responses.to(device)
    ids = torch.cat([group.prompt.to(device).expand(num_rows, -1), responses], dim=1)
    audio = {}
    if group.num_frames:
        is_sound = (torch.arange(WINDOW_FRAMES, device=device) < group.num_frames).long()
        audio = {
            "input_features": group.mel.to(device).expand(num_rows, -1, -1),
            "feature_attention_mask": is_sound.expand(num_rows, -1),
        }

    def logprobs() -> Tensor:
        hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio, use_cache=False)[0]
        logits = model.lm_head(hidden[:, prompt_length - 1 : -1]).float()
        return torch.log_softmax(logits, -1).gather(-1, responses[..., None])[..., 0]

    return logprobs


def packed_way(model: Any, group: Group, device: str) -> Callable[[], Tensor]:
    """The learner's policy on one packed row."""
    from ssr1_rl.trainer.model.policy import Policy

    policy = Policy(model, SOFTMAX, trains_tower(model))
    batch = micro_batch([group], model.config.audio_token_index, packed=True).to(torch.device(device))
    return lambda: policy(batch)[0].view(group.responses.shape)


def num_operations(model: Any, group: Group, way: str) -> float:
    """Multiplications and additions of a pass; see `model_flops`."""
    batch = micro_batch([group], model.config.audio_token_index, packed=way == "packed")
    if way == "repeated":
        # Its tower also computes the padding.
        batch = dataclasses.replace(batch, input_lengths=(WINDOW_FRAMES,) * len(batch.input_lengths))
    return flops_of_pass(model, batch, trains_tower(model))


def trains_tower(model: Any) -> bool:
    return model.model.audio_tower.conv1.weight.requires_grad


MAX_BARS = 8


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws the measured speed-ups and those that the operations allow: as bars, or a grid as a heat map."""
    draw = plot_bars if len(result["cases"]) <= MAX_BARS else plot_grid
    draw(result["cases"], path)


def plot_bars(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    names = [
        f"G {case['group_size']}\nprompt {case['prompt_tokens']}\nresponse {case['response_tokens']}\n"
        f"tower {'trained' if case['train_tower'] else 'frozen'}"
        for case in cases
    ]
    title = "A group's forward and backward pass: times as fast packed as repeated; in orange what the operations allow"
    figure, [axes] = new_figure(title, max(7.0, 1 + 1.2 * len(cases)), 4)
    drawn = axes.bar(range(len(cases)), [case["speedup"] for case in cases], color=OURS, width=0.7)
    axes.bar_label(drawn, fmt="%.1f×", label_type="center", color="white", fontsize=9)
    for x, case in enumerate(cases):
        allowed = case["speedup_allowed"]
        axes.hlines(allowed, x - 0.42, x + 0.42, color=ORANGE, linewidth=2)
        above = max(allowed, case["speedup"])
        axes.annotate(
            f"{allowed:.1f}×", (x, above), (0, 3), textcoords="offset points", ha="center", color=ORANGE, fontsize=9
        )
    axes.set_xticks(range(len(cases)), names)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    save(figure, path)


def plot_grid(cases: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws a panel for each prompt length: speed-up by group size and response length, with a frozen tower."""
    frozen = {
        (case["prompt_tokens"], case["group_size"], case["response_tokens"]): case
        for case in cases
        if not case["train_tower"]
    }
    prompts, groups, responses = (sorted(set(values)) for values in zip(*frozen, strict=True))
    title = "A group's forward and backward pass, frozen tower: times as fast packed as repeated (operations allow)"
    width, height = 1.5 + 0.8 * len(responses) * len(prompts), 1.4 + 0.5 * len(groups)
    figure, panels = new_figure(title, width, height, len(prompts))
    highest = max(case["speedup"] for case in frozen.values())
    for axes, prompt in zip(panels, prompts, strict=True):
        table = [[frozen.get((prompt, group, response)) for response in responses] for group in groups]
        speedups = [[case["speedup"] if case else float("nan") for case in row] for row in table]
        # From light to dark, so that it can be read in grey too.
        axes.imshow(speedups, cmap="Blues", vmin=0, vmax=1.1 * highest, aspect="auto")
        for y, x in itertools.product(range(len(groups)), range(len(responses))):
            if case := table[y][x]:
                text = f"{case['speedup']:.1f}×\n({case['speedup_allowed']:.1f}×)"
                colour = "white" if case["speedup"] > 0.6 * highest else "black"
                axes.text(x, y, text, ha="center", va="center", color=colour, fontsize=8)
        axes.set_title(f"prompt of {prompt} tokens", fontsize=9, loc="left")
        axes.set_xticks(range(len(responses)), responses)
        axes.set_yticks(range(len(groups)), [f"G {group}" for group in groups])
        axes.set_xlabel("response tokens", fontsize=8)
        axes.spines[:].set_visible(False)
    save(figure, path)


if __name__ == "__main__":
    main()
