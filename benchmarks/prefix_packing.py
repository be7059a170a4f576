"""Measure a GRPO group's forward and backward pass: prompt and audio repeated for every response, against packed.

Repeated: what learners do that know nothing of groups. transformers' own forward over G rows of
prompt and response, each with its 30 s of padded mel frames, and the head on the response tokens.
Packed: the project's own `Policy` on one row, prompt and audio computed once. Same weights, tokens
and loss; the gradients are compared. Each side is a process of its own (for its peak memory), and
they take turns; the fastest pass of each counts. With a frozen audio tower both sides run it
forward in every pass: no cache.

The floor is the time that the operations of the unique tokens would take at the rate (operations per
second) that the repeated way reaches; `share_of_floor` is how near the packed way comes to it.
The last line of stdout is one JSON object.
"""

import argparse
import dataclasses
import functools
import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from common import PeakMemory, argument_parser, write_result
from model_flops import flops_of_pass
from torch import Tensor

AUDIO_TOKEN = 3
MEL_FRAMES = {60: 0, 310: 1000, 800: 3000}
"""Prompt tokens -> mel frames of the clip in it: none, 10 s (250 tokens of the prompt) and 30 s (750)."""
SIZES = {
    # The model of 13.8 M parameters.
    "small": {"tower": 256, "tower_layers": 4, "hidden": 384, "intermediate": 1024, "layers": 6, "vocabulary": 512},
    "tiny": {"tower": 64, "tower_layers": 1, "hidden": 128, "intermediate": 128, "layers": 1, "vocabulary": 64},
}
HEAD_SIZE = 64
"""Of both; the language model has two key-value heads."""


@dataclasses.dataclass(frozen=True)
class Case:
    """One group."""

    group_size: int
    prompt_tokens: int
    response_tokens: int
    train_tower: bool


HEADLINE = (8, 310, 150)
OTHERS = [Case(4, 310, 150, False), Case(8, 60, 150, False), Case(8, 800, 50, False), Case(8, 310, 400, False)]


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--grid", action="store_true", help="every combination of the three lists below")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[4, 8, 16, 32], help="(default: 4 8 16 32)")
    parser.add_argument("--prompts", type=int, nargs="+", default=[60, 310, 800], choices=MEL_FRAMES, help="tokens")
    parser.add_argument("--responses", type=int, nargs="+", default=[50, 150, 400], help="tokens (default: 50 150 400)")
    parser.add_argument(
        "--rounds", type=int, default=6, help="timed passes of each side, in the headline case (default: %(default)s)"
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
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
    headline = [Case(*((2, 310, 5) if args.tiny else HEADLINE), tower) for tower in (True, False)]
    others = [] if args.tiny else OTHERS
    if args.grid:
        others = [Case(*sizes, False) for sizes in itertools.product(args.group_sizes, args.prompts, args.responses)]
    results = []
    for case in headline + [case for case in others if case not in headline]:
        # One timed pass shows how the rest compares with the headline.
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
    plot(results, args.results / "prefix_packing.png")
    write_result("prefix_packing", result, args.results)


def compare(case: Case, rounds: int, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides of one case, in turns; the first turn of each warms it up."""
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
    # What else runs on a machine only ever slows a pass down.
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
    """Norm of the difference of two gradients, over the norm of the expected one; a parameter without one has 0."""
    nothing = torch.zeros(())
    pairs = [(found.get(name, nothing), expected.get(name, nothing)) for name in found.keys() | expected.keys()]
    difference = sum(float((mine.double() - theirs).square().sum()) for mine, theirs in pairs)
    return (difference / sum(float(theirs.double().square().sum()) for _, theirs in pairs)) ** 0.5


class Side:
    """One way of computing the case, in a process of its own that does what it is asked."""

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
        """A pass (its seconds), "gradient", "peak_mib" or "operations"."""
        self._connection.send(what)
        return self._connection.recv()

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join()


def serve(connection: Any, way: str, case: Case, args: argparse.Namespace) -> None:
    """What a `Side` runs: answers until the other end hangs up."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = make_model(size_name(args)).to(args.device)
    model.model.audio_tower.requires_grad_(case.train_tower)
    model.model.audio_tower.embed_positions.requires_grad_(False)
    group = make_group(case, model.config.text_config.vocab_size, args.device)
    logprobs_of = {"repeated": repeated_way, "packed": packed_way}[way](model, group)
    peak = PeakMemory(args.device)
    answers: dict[str, Callable[[], Any]] = {
        "pass": functools.partial(timed_pass, model, logprobs_of, group.advantages),
        "gradient": lambda: {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None},
        "peak_mib": peak.mib,
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


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt [P], its mel frames [128, 3000] and how many are sound, responses [G, R], advantages [G]."""

    prompt: Tensor
    mel: Tensor
    num_frames: int
    responses: Tensor
    advantages: Tensor


def make_model(size: str) -> Any:
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    sizes = SIZES[size]
    settings: dict[str, Any] = {
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": sizes["tower"],
            "encoder_layers": sizes["tower_layers"],
            "encoder_attention_heads": sizes["tower"] // HEAD_SIZE,
            "encoder_ffn_dim": 4 * sizes["tower"],
            "max_source_positions": 1500,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": sizes["hidden"],
            "intermediate_size": sizes["intermediate"],
            "num_hidden_layers": sizes["layers"],
            "num_attention_heads": sizes["hidden"] // HEAD_SIZE,
            "num_key_value_heads": 2,
            "vocab_size": sizes["vocabulary"],
            "max_position_embeddings": 4096,
            "tie_word_embeddings": False,
        },
        "audio_token_index": AUDIO_TOKEN,
    }
    return Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**settings)).eval()


def make_group(case: Case, vocabulary: int, device: str) -> Group:
    num_frames = MEL_FRAMES[case.prompt_tokens]
    num_audio = num_frames // 4
    text = torch.randint(10, vocabulary, (case.prompt_tokens - num_audio,))
    prompt = torch.cat([text[:10], torch.full((num_audio,), AUDIO_TOKEN), text[10:]])
    responses = torch.randint(10, vocabulary, (case.group_size, case.response_tokens))
    tensors = (prompt, torch.randn(128, 3000), responses, torch.randn(case.group_size))
    prompt, mel, responses, advantages = (tensor.to(device) for tensor in tensors)
    return Group(prompt, mel, num_frames, responses, advantages)


def repeated_way(model: Any, group: Group) -> Callable[[], Tensor]:
    """transformers' own forward over G whole rows."""
    num_rows, prompt_length = len(group.responses), len(group.prompt)
    ids = torch.cat([group.prompt.expand(num_rows, -1), group.responses], dim=1)
    audio = {}
    if group.num_frames:
        is_sound = (torch.arange(3000, device=ids.device) < group.num_frames).long()
        audio = {
            "input_features": group.mel.expand(num_rows, -1, -1),
            "feature_attention_mask": is_sound.expand(num_rows, -1),
        }

    def logprobs() -> Tensor:
        hidden = model.model(input_ids=ids, attention_mask=torch.ones_like(ids), **audio, use_cache=False)[0]
        logits = model.lm_head(hidden[:, prompt_length - 1 : -1]).float()
        return torch.log_softmax(logits, -1).gather(-1, group.responses[..., None])[..., 0]

    return logprobs


def packed_way(model: Any, group: Group) -> Callable[[], Tensor]:
    """The project's own: one packed row."""
    from ssr1_rl.trainer.policy import Policy

    policy = Policy(model, 1.0, trains_tower(model))
    batch = micro_batch(group, "packed").to(group.mel.device)
    return lambda: policy(batch)[0].view(group.responses.shape)


def micro_batch(group: Group, way: str) -> Any:
    """The group as the learner packs it, or with a prompt and a clip of its own for every response."""
    from ssr1_rl.data.prompt import CONV_MARGIN_FRAMES
    from ssr1_rl.trainer.batching import Row, collate

    def mel_of(clip: Any) -> tuple[Any, Tensor, int]:
        return clip, mel, group.num_frames

    mel = group.mel[:, : group.num_frames + CONV_MARGIN_FRAMES].cpu()
    shared = tuple(group.prompt.tolist())
    rows = []
    for index, response in enumerate(map(tuple, group.responses.tolist())):
        prompt, clip = (shared, "clip") if way == "packed" else ((*shared,), index)
        clips = (clip,) if group.num_frames else ()
        rows.append(Row(prompt, clips, response, (0.0,) * len(response), 1.0, True))
    return collate(rows, AUDIO_TOKEN, mel_of, len(mel))


def num_operations(model: Any, group: Group, way: str) -> float:
    """Of a pass, multiplications and additions; see `model_flops`."""
    batch = micro_batch(group, way)
    if way == "repeated":
        # Its tower sees the padding, too.
        batch = dataclasses.replace(batch, num_mel_frames=(3000,) * len(batch.num_mel_frames))
    return flops_of_pass(model, batch, trains_tower(model))


def trains_tower(model: Any) -> bool:
    return model.model.audio_tower.conv1.weight.requires_grad


def timed_pass(model: Any, logprobs_of: Callable[[], Tensor], advantages: Tensor) -> float:
    """Seconds of one forward and backward pass."""
    model.zero_grad()
    started = time.perf_counter()
    logprobs = logprobs_of()
    (-(advantages[:, None] * logprobs).mean()).backward()
    if advantages.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def size_name(args: argparse.Namespace) -> str:
    return "tiny" if args.tiny else "small"


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Measured speed-ups, and what the operations allow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = [
        f"G {r['group_size']}\nprompt {r['prompt_tokens']}\nresponse {r['response_tokens']}\n"
        f"tower {'trained' if r['train_tower'] else 'frozen'}"
        for r in results
    ]
    figure, axes = pyplot.subplots(figsize=(2 + 1.1 * len(results), 4.5))
    bars = axes.bar(labels, [r["speedup"] for r in results], color="#4477aa", label="measured")
    axes.bar_label(bars, fmt="%.1f×", label_type="center", color="white")
    allowed = [r["speedup_allowed"] for r in results]
    axes.scatter(labels, allowed, marker="_", s=600, color="#cc3311", label="allowed by operations")
    axes.set_ylabel("times the repeated way")
    axes.set_title("A group's forward and backward pass, packed against repeated", fontsize=10, loc="left")
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.08), ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
