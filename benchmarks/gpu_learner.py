"""Measure the learner's forward and backward pass on one CUDA GPU: tokens/s and model FLOPs utilisation (MFU).

A Qwen2-Audio of random weights at the 7B model's size (or the size that the options say) computes log-probs of a
micro-batch of groups and their gradient, in bfloat16 with gradient checkpointing, once with each group packed behind
its prompt and once repeated, a row with prompt and clip for every response. Both ways get the same responses and the
same attention, by flash-attn and by FlexAttention; all sides take turns, and each figure is the median of its rounds.

MFU is the operations that the tokens need that a side really computes, by `model_flops.py`, over seconds and the
GPU's peak. A packed side computes fewer of them, so compare `response_tokens_per_s` between ways, and MFU to see what
is left to gain. The optimizer's step is left out: a 7B model's optimizer states fill a GPU by themselves.

Needs torch, transformers and this package's trainer/, neither vLLM nor Ray. It has not run on a GPU yet; the aim
there is an MFU of at least 0.45. `--tiny --device cpu` only shows that it runs. The last line of stdout is one JSON
object.
"""

import argparse
import dataclasses
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from common import argument_parser, write_result
from model_flops import flops_of_pass, peak_tflops

from ssr1_rl.data.prompt import CONV_MARGIN_FRAMES, num_audio_tokens
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.batching import MicroBatch, Row, collate
from ssr1_rl.trainer.families import make_model
from ssr1_rl.trainer.gradient_checkpointing import checkpoint_layers
from ssr1_rl.trainer.policy import Policy

MEL_BINS = 128
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The model and the micro-batch. The defaults are Qwen2-Audio-7B, and groups on clips of 10 s."""

    layers: int = 32
    hidden_size: int = 4096
    vocab_size: int = 156_032
    tower_layers: int = 32
    tower_size: int = 1280
    groups: int = 4
    group_size: int = 8
    clip_frames: int = 1000
    text_tokens: int = 60
    response_tokens: int = 150


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
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="(default: %(default)s)")
    parser.add_argument(
        "--attention", nargs="+", choices=("flash", "flex", "sdpa"), help="default: flash and flex; on a CPU sdpa"
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each side (default: %(default)s)")
    parser.add_argument("--train-audio-tower", action="store_true", help="the tower's gradient too")
    parser.add_argument("--keep-activations", action="store_true", help="no gradient checkpointing")
    parser.add_argument("--peak-tflops", type=float, help="the GPU's dense bfloat16 peak, if the table lacks it")
    for field in dataclasses.fields(Sizes):
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help=f"(default: {field.default})")
    args = parser.parse_args()
    if args.device == "cpu" and not args.tiny:
        parser.error("--device cpu measures nothing and is for --tiny alone")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; --tiny --device cpu shows that the program runs")
    for name, value in vars(args).items():
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "seed" and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be greater than 0, got {value}")
    return args


def main() -> None:
    args = parse_args()
    torch.manual_seed(args.seed)
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Sizes)}
    sizes = dataclasses.replace(TINY if args.tiny else Sizes(), **{k: v for k, v in given.items() if v is not None})
    device = torch.device(args.device)
    dtype = torch.bfloat16 if args.device == "cuda" else torch.float32
    on_gpu = args.device == "cuda"
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
    model = build_model(sizes, device, dtype)
    if not args.keep_activations:
        checkpoint_layers(model)
    result["parameters"] = sum(parameter.numel() for parameter in model.parameters())
    write_result("gpu_learner", result | measure(args, sizes, model, result["peak_tflops"]), args.results)


def build_model(sizes: Sizes, device: torch.device, dtype: torch.dtype) -> Any:
    """A Qwen2-Audio of random weights, made on the device, in the proportions of the 7B model."""
    from transformers import Qwen2AudioConfig

    heads = sizes.hidden_size // 128
    config = Qwen2AudioConfig(
        text_config={
            "model_type": "qwen2",
            "hidden_size": sizes.hidden_size,
            "intermediate_size": sizes.hidden_size * 11008 // 4096,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "vocab_size": sizes.vocab_size,
            "tie_word_embeddings": False,
        },
        audio_config={
            "num_mel_bins": MEL_BINS,
            "d_model": sizes.tower_size,
            "encoder_layers": sizes.tower_layers,
            "encoder_attention_heads": sizes.tower_size // 64,
            "encoder_ffn_dim": 4 * sizes.tower_size,
        },
        audio_token_index=sizes.vocab_size - 1,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            return make_model(config)
    finally:
        torch.set_default_dtype(usual)


def make_batch(sizes: Sizes, packed: bool) -> MicroBatch:
    """The groups as one micro-batch; unless `packed`, every response has a prompt and a clip of its own."""
    placeholder = sizes.vocab_size - 1
    generator = torch.Generator().manual_seed(0)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(torch.randint(placeholder, (number,), generator=generator).tolist())

    rows = []
    for group in range(sizes.groups):
        prompt = (*tokens(sizes.text_tokens), *[placeholder] * num_audio_tokens(sizes.clip_frames))
        for index in range(sizes.group_size):
            response, clip = tokens(sizes.response_tokens), group if packed else (group, index)
            # An equal tuple, but not the same one, is a prompt of its own.
            own = prompt if packed else (*prompt,)
            rows.append(Row(own, (clip,), response, (0.0,) * len(response), 1.0, True))
    mel = torch.randn(MEL_BINS, sizes.clip_frames + CONV_MARGIN_FRAMES, generator=generator)
    return collate(rows, placeholder, lambda clip: (clip, mel, sizes.clip_frames), MEL_BINS)


def measure(args: argparse.Namespace, sizes: Sizes, model: Any, peak: float | None) -> dict[str, Any]:
    """Lets all sides take turns; figures by side, and how much faster packed is for each attention."""
    backends = args.attention or (["flash", "flex"] if args.device == "cuda" else ["sdpa"])
    dtype = "bfloat16" if args.device == "cuda" else "float32"
    device = torch.device(args.device)
    batches = {way: make_batch(sizes, way == "packed").to(device) for way in ("packed", "repeated")}
    sides: dict[str, dict[str, Any]] = {}
    for backend in backends:
        try:
            choose_attention(backend, args.device, dtype)
        except ValueError as error:
            print(f"left out: {error}", flush=True)
            continue
        for way, batch in batches.items():
            policy = Policy(model, 1.0, args.train_audio_tower, backend)
            sides[f"{way}_{backend}"] = {"policy": policy, "batch": batch, "seconds": [], "memory_gib": 0.0}
    for number in range(args.rounds + 1):
        for name, side in list(sides.items()):
            try:
                with measured(args.device) as figures:
                    run_pass(side["policy"], side["batch"])
            except torch.OutOfMemoryError:
                print(f"left out: {name} does not fit into memory", flush=True)
                del sides[name]
                continue
            # The first round compiles kernels and fills the allocator.
            if number:
                side["seconds"].append(figures["seconds"])
                side["memory_gib"] = max(side["memory_gib"], figures["memory_gib"])
                print(f"round {number}, {name}: {figures['seconds']:.3f} s", flush=True)
    if not sides:
        raise SystemExit("no side could run; choose smaller sizes or another --attention")
    found = {name: figures_of(model, side, args.train_audio_tower, peak) for name, side in sides.items()}
    speedups = {
        backend: found[f"repeated_{backend}"]["seconds"] / found[f"packed_{backend}"]["seconds"]
        for backend in backends
        if {f"packed_{backend}", f"repeated_{backend}"} <= found.keys()
    }
    return {"sides": found, "packed_speedup": speedups}


def run_pass(policy: Policy, batch: MicroBatch) -> None:
    """Log-probs of all responses and the gradient of their mean."""
    policy.zero_grad(set_to_none=True)
    logprobs_T, _ = policy(batch)
    logprobs_T.mean().backward()


@contextmanager
def measured(device: str) -> Iterator[dict[str, float]]:
    """Seconds and peak GPU memory of what runs inside, work queued on the GPU included."""
    figures: dict[str, float] = {"memory_gib": 0.0}
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    yield figures
    if device == "cuda":
        torch.cuda.synchronize()
        figures["memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    figures["seconds"] = time.perf_counter() - started


def figures_of(model: Any, side: dict[str, Any], train_audio_tower: bool, peak: float | None) -> dict[str, Any]:
    """What is kept of one side."""
    batch: MicroBatch = side["batch"]
    seconds = statistics.median(side["seconds"])
    flops = flops_of_pass(model, batch, train_audio_tower)
    return {
        "seconds": seconds,
        "computed_tokens": batch.num_computed_tokens,
        "computed_tokens_per_s": batch.num_computed_tokens / seconds,
        "response_tokens_per_s": len(batch.targets_T) / seconds,
        "tflops_needed": flops / 1e12,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "peak_memory_gib": side["memory_gib"],
    }


if __name__ == "__main__":
    main()
