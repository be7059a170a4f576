"""Computes log-probs and entropies of given tokens from hidden states, without holding all logits at once.

Logits of T tokens over a vocabulary of V are by far the largest tensor of a pass (16,384 tokens of Qwen2-Audio:
9.5 GiB in float32, several times that with softmax and gradient). Here only the logits of one chunk of tokens exist
at a time, and the backward pass recomputes them.

Shapes: _T tokens, _C tokens of a chunk, _H hidden size, _V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from ssr1_rl.trainer.model.truncation import drop_, lowest_kept
from ssr1_rl.types import SOFTMAX, Distribution

CHUNK_BYTES = 256 * 2**20
"""Size of the float32 logits of one chunk on a CPU; about three such buffers exist at once."""
SORTED_PER_CHUNK = 4
"""Parts of a chunk whose logits are sorted one after the other, for top_p: a sort holds about seven buffers."""


def chunk_bytes(device: str) -> int:
    """Size of a chunk's float32 logits: larger on a GPU, since every chunk reads and writes the head's gradient."""
    return 4 * CHUNK_BYTES if device == "cuda" else CHUNK_BYTES


class LogprobHead(nn.Linear):
    """An lm_head that returns log-probs of given tokens, or logits if no tokens are given.

    Attributes:
        in_float32: whether logits are computed in float32 from a hidden state and a weight of fewer bits.
    """

    in_float32 = False

    @staticmethod
    def replace(head: nn.Module, in_float32: bool = False) -> None:
        """Turns `head` into a `LogprobHead` in place.

        Module, name and parameters stay the same. So ZeRO-3 gathers the weight once around the module's forward and
        backward pass, for any number of chunks.
        """
        assert isinstance(head, nn.Linear), f"lm_head is a {type(head).__name__}, not a linear layer"
        head.__class__ = LogprobHead
        vars(head)["in_float32"] = in_float32

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, input: Tensor, targets_T: Tensor | None = None, distribution: Distribution = SOFTMAX
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [..., V] of hidden states [..., H]; with `targets_T` the result of `token_logprobs`."""
        if targets_T is None:
            return super().forward(input)
        return token_logprobs(input, self.weight, self.bias, targets_T, distribution, self.in_float32)


def token_logprobs(
    hidden_TH: Float[Tensor, "T H"],
    weight_VH: Float[Tensor, "V H"],
    bias_V: Float[Tensor, " V"] | None,
    targets_T: Int[Tensor, " T"],
    distribution: Distribution,
    in_float32: bool = False,
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Log-probs log p_t and entropies H = -sum p log p under the distribution p, in float32 or wider.

    p is softmax(logits / temperature) over the tokens that the distribution's top_p, top_k and min_p leave; which
    tokens these are counts as constant in the gradient.

    Both carry gradients; that of the entropy is computed only if the loss uses it. With `in_float32` logits are not
    rounded to the dtype of the hidden states before the softmax, which moves a logit of 20 in bfloat16 by up to 0.06
    (ScaleRL, arXiv 2510.13786, does so in engine and learner). The gradient of the logits is rounded to that dtype for
    its products with hidden states and weight, as without it.
    """
    found = _TokenLogprobs.apply(hidden_TH, weight_VH, bias_V, targets_T, distribution, in_float32)
    return found  # pyright: ignore[reportReturnType]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        distribution: Distribution,
        in_float32: bool,
    ):
        head = _widened(weight, bias, in_float32)
        logprobs, entropies, log_normalizers, lowest = (
            hidden.new_empty(len(hidden), dtype=_wide(hidden.dtype)) for _ in range(4)
        )
        for part in _chunks(len(hidden), weight):
            logits = _tempered_logits(hidden[part], *head, distribution.temperature)
            if distribution.drops_tokens:
                lowest[part] = _lowest_kept(logits, distribution)
                drop_(logits, lowest[part], targets[part])
            largest = logits.amax(-1)
            logits -= largest[:, None]
            logprobs[part] = logits.gather(-1, targets[part, None])[:, 0]
            probs = logits.exp()
            normalizer = probs.sum(-1)
            log_normalizer = normalizer.log()
            logprobs[part] -= log_normalizer
            # H = log Z - E[logits]
            entropies[part] = log_normalizer - probs.mul_(logits).sum(-1) / normalizer
            log_normalizers[part] = log_normalizer + largest
        # The weight itself is saved, not a view: ZeRO-3 frees it after this pass and gathers it for the backward one.
        ctx.save_for_backward(hidden, weight, bias, targets, entropies, log_normalizers, lowest)
        ctx.distribution, ctx.in_float32 = distribution, in_float32
        ctx.set_materialize_grads(False)
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, entropies, log_normalizers, lowest = ctx.saved_tensors
        grad_logprobs = torch.zeros_like(entropies) if grad_logprobs is None else grad_logprobs
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        head = _widened(weight, bias, ctx.in_float32)
        chunks = list(_chunks(len(hidden), weight))
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Sums over chunks are kept in float32; a single chunk needs no sum.
        sum_dtype = _wide(weight.dtype) if len(chunks) > 1 else weight.dtype
        grad_weight = torch.zeros_like(weight, dtype=sum_dtype) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=_wide(bias.dtype)) if wants_bias else None
        for part in chunks:
            logits = _tempered_logits(hidden[part], *head, ctx.distribution.temperature)
            if ctx.distribution.drops_tokens:
                drop_(logits, lowest[part], targets[part])
            logits -= log_normalizers[part, None]
            of_entropies = None if grad_entropies is None else grad_entropies[part]
            grad = _grad_of_logits(logits, grad_logprobs[part], of_entropies, targets[part], entropies[part])
            grad /= ctx.distribution.temperature
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(weight.dtype)
            if grad_hidden is not None:
                torch.mm(grad, weight, out=grad_hidden[part])
            if grad_weight is not None and grad_weight.dtype == grad.dtype:
                grad_weight.addmm_(grad.T, hidden[part])
            elif grad_weight is not None:
                grad_weight += grad.T @ hidden[part]
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _lowest_kept(logits_CV: Tensor, distribution: Distribution) -> Tensor:
    """`lowest_kept` of a chunk; for top_p in parts, so that the sort needs no more memory than the chunk's gradient."""
    size = -(-len(logits_CV) // SORTED_PER_CHUNK) if distribution.top_p < 1 else len(logits_CV)
    return torch.cat([lowest_kept(part_CV, distribution) for part_CV in logits_CV.split(max(1, size))])


def _grad_of_logits(
    logprobs_CV: Tensor,
    grad_logprobs_C: Tensor,
    grad_entropies_C: Tensor | None,
    targets_C: Tensor,
    entropies_C: Tensor,
) -> Tensor:
    """Gradient [C, V] wrt tempered logits z: d log p_t / dz = onehot_t - p, dH / dz = -p (log p + H)."""
    if grad_entropies_C is None:
        grad = logprobs_CV.exp_().mul_(-grad_logprobs_C[:, None])
    else:
        probs_CV = logprobs_CV.exp()
        grad = logprobs_CV.add_(entropies_C[:, None]).mul_(-grad_entropies_C[:, None])
        grad = grad.sub_(grad_logprobs_C[:, None]).mul_(probs_CV)
    return grad.scatter_add_(-1, targets_C[:, None], grad_logprobs_C[:, None])


def _tempered_logits(hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, temperature: float) -> Tensor:
    """Logits / temperature [C, V], float32 or wider, as a new tensor; computed in the dtype of the weight."""
    logits = linear(hidden_CH.to(weight_VH.dtype), weight_VH, bias_V)
    return logits.to(_wide(hidden_CH.dtype)).div_(temperature)


def _widened(weight_VH: Tensor, bias_V: Tensor | None, in_float32: bool) -> tuple[Tensor, Tensor | None]:
    """Weight and bias for the logits: in float32 or wider if asked for (a copy, once per pass), else as they are."""
    if not in_float32:
        return weight_VH, bias_V
    return weight_VH.to(_wide(weight_VH.dtype)), None if bias_V is None else bias_V.to(_wide(bias_V.dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _chunks(num_tokens: int, weight_VH: Tensor) -> Iterator[slice]:
    """Equal parts of the tokens, each with float32 logits within `chunk_bytes`."""
    size = max(1, chunk_bytes(weight_VH.device.type) // (4 * len(weight_VH)))
    num_chunks = -(-num_tokens // size)
    for index in range(num_chunks):
        yield slice(index * num_tokens // num_chunks, (index + 1) * num_tokens // num_chunks)
