"""Measure the learner's forward and backward pass on one CUDA GPU: tokens/s and model FLOPs utilisation (MFU).

A Qwen2-Audio with random weights, of the 7B model's size unless options say otherwise, computes log-probs of a
micro-batch of groups and their gradient, in bfloat16 with gradient checkpointing. There are two ways: packed (one row
for each group, with one prompt and clip) and repeated (one row for each response, each with prompt and clip). Both get
the same responses, and each runs with flash-attn and with FlexAttention. All sides take turns; each figure is the
median of its rounds.

MFU is the number of operations that a side's tokens need (`model_flops.py`), divided by time and the GPU's peak. The
packed way has fewer tokens to compute, so compare ways by `response_tokens_per_s`; MFU shows how much could be gained.
The optimizer's step is not measured: the optimizer states of a 7B model fill a GPU by themselves.

The program needs torch, transformers, jaxtyping and this package's trainer/, but neither vLLM nor Ray; and matplotlib
for the plot. It has not run on a GPU yet; the aim is an MFU of at least 0.45. `--tiny --device cpu` only shows that
it works. The last line of stdout is one JSON object.
"""

import argparse
import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common import PeakMemory, argument_parser, timed, warn_if_busy, write_result
from learner_pass import (
    TOWER_HEAD_SIZE,
    WINDOW_FRAMES,
    ModelSizes,
    micro_batch,
    random_group,
    random_qwen2_audio,
)
from model_flops import flops_of_pass, peak_tflops
from plots import bars, new_figure, save

from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.batches.rows import MicroBatch
from ssr1_rl.trainer.model.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.model.policy import Policy
from ssr1_rl.types import SOFTMAX

TEXT_HEAD_SIZE = 128


def size(default: int, help: str) -> Any:
    """A field of `Sizes` and the help of the option of the same name."""
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of model and micro-batch; by default Qwen2-Audio-7B and groups on clips of 10 s."""

    layers: int = size(32, "layers of the language model")
    hidden_size: int = size(4096, "width of the language model, a multiple of 128 (the size of its attention heads)")
    vocab_size: int = size(156_032, "output tokens of the language model")
    tower_layers: int = size(32, "layers of the audio tower")
    tower_size: int = size(1280, "width of the audio tower, a multiple of 64 (the size of its attention heads)")
    groups: int = size(4, "groups in the micro-batch, each with a prompt and a clip of its own")
    group_size: int = size(8, "responses to each prompt")
    clip_frames: int = size(1000, "mel frames of each clip, at most 3000; 100 a second, 4 for each prompt token")
    text_tokens: int = size(60, "tokens of each prompt besides those of its clip")
    response_tokens: int = size(150, "tokens of each response")


TINY = Sizes(
    layers=2,
    hidden_size=256,
    vocab_size=500,
    tower_layers=2,
    tower_size=64,
    groups=2,
    group_size=2,
    clip_frames=40,
    text_tokens=5,
    response_tokens=6,
)


def parse_args() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu only with --tiny (default: %(default)s)"
    )
    parser.add_argument(
        "--attention",
        nargs="+",
        choices=("flash", "flex", "sdpa"),
        help="implementations to compare (default: flash and flex; on a CPU sdpa)",
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each side (default: %(default)s)")
    parser.add_argument("--train-audio-tower", action="store_true", help="also compute the audio tower's gradient")
    parser.add_argument("--keep-activations", action="store_true", help="do not use gradient checkpointing")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the GPU, if model_flops.py lacks it")
    for field in dataclasses.fields(Sizes):
        explained = f"{field.metadata['help']} (default: {field.default})"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help=explained)
    args = parser.parse_args()
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu measures nothing and needs --tiny")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no CUDA GPU; --tiny --device cpu shows that the program works")
    for name, value in vars(args).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed" and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be greater than 0, got {value}")
    for name, unit in (("hidden_size", TEXT_HEAD_SIZE), ("tower_size", TOWER_HEAD_SIZE)):
        if (getattr(args, name) or 0) % unit:
            parser.error(f"--{name.replace('_', '-')} must be a multiple of {unit}, got {getattr(args, name)}")
    if (args.clip_frames or 0) > WINDOW_FRAMES:
        parser.error(f"--clip-frames must be at most {WINDOW_FRAMES}, got {args.clip_frames}")
    return args


def main() -> None:
    args = parse_args()
    if not args.tiny:
        warn_if_busy()
    torch.manual_seed(args.seed)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)}
    sizes = dataclasses.replace(TINY if args.tiny else Sizes(), **{k: v for k, v in given.items() if v is not None})
    on_gpu = args.device == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    gpu_name = torch.cuda.get_device_name() if on_gpu else ""
    result: dict[str, Any] = {
        "device": gpu_name or "cpu",
        "measures_a_gpu": on_gpu and not args.tiny,
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": dataclasses.asdict(sizes),
        "train_audio_tower": args.train_audio_tower,
        "gradient_checkpointing": not args.keep_activations,
        "peak_tflops": args.peak_tflops or peak_tflops(gpu_name),
    }
    model = build_model(sizes, args.device, dtype)
    if not args.keep_activations:
        checkpoint_layers(model)
    result["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    result |= measure(args, make_sides(args, sizes, model, result["dtype"]), model, result["peak_tflops"])
    write_result("gpu_learner", result, args.results, plot)


def build_model(sizes: Sizes, device: str, dtype: torch.dtype) -> Any:
    """A Qwen2-Audio with the proportions of the 7B model."""
    intermediate, heads = sizes.hidden_size * 11008 // 4096, sizes.hidden_size // TEXT_HEAD_SIZE
    text = (sizes.layers, sizes.hidden_size, intermediate, TEXT_HEAD_SIZE, heads, sizes.vocab_size)
    return random_qwen2_audio(ModelSizes(*text, sizes.tower_layers, sizes.tower_size), device, dtype)


def make_batches(sizes: Sizes) -> dict[str, MicroBatch]:
    """The same groups as one micro-batch for each way."""
    of_a_group = (sizes.text_tokens, sizes.clip_frames, sizes.group_size, sizes.response_tokens)
    groups = [random_group(sizes.vocab_size, *of_a_group) for _ in range(sizes.groups)]
    return {way: micro_batch(groups, sizes.vocab_size - 1, way == "packed") for way in ("packed", "repeated")}


@dataclasses.dataclass
class Side:
    """One way with one attention implementation, and its measurements so far."""

    policy: Policy
    batch: MicroBatch
    seconds: list[float] = dataclasses.field(default_factory=list)
    memory_gib: float = 0.0

    def run_pass(self) -> None:
        """Computes log-probs of all responses and the gradient of their mean."""
        self.policy.zero_grad(set_to_none=True)
        logprobs_T, _ = self.policy(self.batch)
        logprobs_T.mean().backward()


def make_sides(args: argparse.Namespace, sizes: Sizes, model: Any, dtype: str) -> dict[str, Side]:
    """Every combination of way and attention that can run on this device, by name."""
    sides = {}
    batches = make_batches(sizes)
    for attention in args.attention or (["flash", "flex"] if args.device == "cuda" else ["sdpa"]):
        try:
            choose_attention(attention, args.device, dtype)
        except ValueError as error:
            print(f"left out: {error}", flush=True)
            continue
        for way, batch in batches.items():
            policy = Policy(model, SOFTMAX, args.train_audio_tower, attention)
            sides[f"{way}_{attention}"] = Side(policy, batch.to(torch.device(args.device)))
    return sides


def measure(args: argparse.Namespace, sides: dict[str, Side], model: Any, peak: float | None) -> dict[str, Any]:
    """Runs all sides in turns; returns each side's figures, and the speed-up of packed for each attention."""
    for number in range(args.rounds + 1):
        for name, side in list(sides.items()):
            memory = PeakMemory(args.device)
            try:
                seconds = timed(args.device, side.run_pass)
            except torch.OutOfMemoryError:
                print(f"left out: {name} does not fit into memory", flush=True)
                del sides[name]
                continue
            # The first round compiles kernels and fills the allocator.
            if number:
                side.seconds.append(seconds)
                side.memory_gib = max(side.memory_gib, memory.total_mib() / 1024)
                print(f"round {number}, {name}: {seconds:.3f} s", flush=True)
    if not sides:
        raise SystemExit("no side could run; choose smaller sizes or another --attention")
    found = {name: figures_of(model, side, args.train_audio_tower, peak) for name, side in sides.items()}
    attentions = [name.removeprefix("packed_") for name in found if name.startswith("packed_")]
    speedups = {
        attention: found[f"repeated_{attention}"]["seconds"] / found[f"packed_{attention}"]["seconds"]
        for attention in attentions
        if f"repeated_{attention}" in found
    }
    return {"sides": found, "packed_speedup": speedups}


def figures_of(model: Any, side: Side, train_audio_tower: bool, peak: float | None) -> dict[str, Any]:
    """The figures of one side."""
    seconds = statistics.median(side.seconds)
    flops = flops_of_pass(model, side.batch, train_audio_tower)
    return {
        "seconds": seconds,
        "computed_tokens": side.batch.num_computed_tokens,
        "computed_tokens_per_s": side.batch.num_computed_tokens / seconds,
        "response_tokens_per_s": len(side.batch.targets_T) / seconds,
        "tflops_needed": flops / 1e12,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "peak_memory_gib": side.memory_gib,
    }


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws tokens/s of every side, and MFU if the GPU's peak is known."""
    names = [name.replace("_", ", ") for name in result["sides"]]
    sides = list(result["sides"].values())
    with_mfu = result["peak_tflops"] is not None
    size = f"{result['parameters'] / 1e9:.2g} B parameters"
    title = f"The learner's forward and backward pass, {size}, {result['device']}"
    figure, panels = new_figure(title, 9 if with_mfu else 6, 1 + 0.5 * len(sides), 1 + with_mfu)
    tokens = [side["response_tokens_per_s"] for side in sides]
    bars(panels[0], "response tokens/s", names, tokens, [f"{value:,.0f}" for value in tokens])
    if with_mfu:
        mfu = [side["mfu"] for side in sides]
        bars(panels[1], "model FLOPs utilisation", names, mfu, [f"{value:.1%}" for value in mfu])
    save(figure, path)


if __name__ == "__main__":
    main()
