"""An attention backend of the learner against exact attention in float64, forward and backward."""

import torch
from torch import Tensor

from gpu_checks.registry import NotPossible, need_gpus
from ssr1_rl.trainer.attention.choice import choose_attention
from ssr1_rl.trainer.attention.interface import BACKENDS
from ssr1_rl.trainer.batches.layout import PackedGroup, PackedLayout

LAYOUTS = (
    PackedLayout((PackedGroup(300, (100, 1, 257)), PackedGroup(110, ()), PackedGroup(128, (128, 128)))),
    PackedLayout((PackedGroup(7, (3, 5)),)),
    PackedLayout((PackedGroup(500, (64,) * 8), PackedGroup(33, (90, 2)))),
)
QUERY_HEADS, KEY_HEADS, HEAD_SIZE = 8, 2, 64
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest relative error. bfloat16 has 8 bits, and gradients add up many rounded terms."""


def run(device: str, backend: str) -> str:
    """Every layout; the second one follows a longer one, so compiled kernels must cope with another shape."""
    if device == "cuda":
        need_gpus(1)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        choose_attention(backend, device, str(dtype).removeprefix("torch."))
    except ValueError as error:
        raise NotPossible(str(error)) from None
    worst = 0.0
    for seed, layout in enumerate(LAYOUTS):
        inputs = random_inputs(layout, seed, device, dtype)
        found = with_gradients(BACKENDS[backend](layout, torch.device(device)), inputs)
        expected = with_gradients(lambda *given, of=layout: exact(of, *given), [x.double() for x in inputs])
        errors = [relative_error(x, y) for x, y in zip(found, expected, strict=True)]
        assert max(errors) < TOLERANCE[dtype], f"layout {seed}: relative errors {errors} of output and gradients"
        worst = max(worst, *errors)
    return f"relative error at most {worst:.1e} in {dtype}"


def random_inputs(layout: PackedLayout, seed: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Queries, keys and values [1, heads, L, head size]."""
    generator = torch.Generator().manual_seed(seed)
    length = sum(group.num_tokens for group in layout.groups)
    shapes = [(1, heads, length, HEAD_SIZE) for heads in (QUERY_HEADS, KEY_HEADS, KEY_HEADS)]
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def with_gradients(attention, inputs: list[Tensor]) -> list[Tensor]:
    """The output, and the gradients of a random weighted sum of it."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    output = attention(*inputs, None)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(9)).to(output)
    (weights * output).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


def exact(layout: PackedLayout, query: Tensor, key: Tensor, value: Tensor, scaling: None) -> Tensor:
    """Softmax over a mask of all pairs, as `PackedAttention` defines it."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    scores = scores.masked_fill(~visible(layout).to(query.device), float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2)


def visible(layout: PackedLayout) -> Tensor:
    """bool [L, L]: whether a token (row) may attend to another one (column)."""
    parts = []
    for number, group in enumerate(layout.groups):
        lengths = (group.prompt_length, *group.response_lengths)
        parts += [(number, part) for part, length in enumerate(lengths) for _ in range(length)]
    groups, numbers = torch.tensor(parts).T
    same_group = groups[:, None] == groups
    to_prompt_or_own = (numbers == 0) | (numbers[:, None] == numbers)
    return (same_group & to_prompt_or_own).tril()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference by the norm of what is expected."""
    return float((found.double() - expected).norm() / expected.norm())
