"""The chunked head gives the log-probs, entropies and gradients of all logits at once, without ever holding them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ssr1_rl.trainer.model import logprobs as head
from ssr1_rl.trainer.model.logprobs import LogprobHead, token_logprobs
from ssr1_rl.types import SOFTMAX, Distribution

VOCABULARY = 37
HIDDEN = 16


def plain(hidden, weight, bias, targets, distribution):
    """Log-probs and entropies by definition, with all logits in memory."""
    logprobs = torch.log_softmax(nn.functional.linear(hidden, weight, bias).float() / distribution.temperature, -1)
    return logprobs.gather(-1, targets[:, None])[:, 0], -(logprobs.exp() * logprobs).sum(-1)


def inputs(num_tokens, with_bias, dtype=torch.float32, seed=0):
    make = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_tokens, HIDDEN, generator=make).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=make).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=make).to(dtype).requires_grad_() if with_bias else None
    return hidden, weight, bias, torch.randint(VOCABULARY, (num_tokens,), generator=make)


@pytest.fixture(params=[1, 4, 1000], ids=lambda tokens: f"chunks-of-{tokens}")
def chunk_tokens(request, monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * request.param)
    return request.param


def results(way, hidden, weight, bias, targets, distribution, of_logprobs, of_entropy):
    """Log-probs, entropies and gradients under a loss that weighs every token differently."""
    logprobs, entropy = way(hidden, weight, bias, targets, distribution)
    factors = torch.linspace(-1, 2, len(targets)).to(logprobs.dtype)
    loss = of_logprobs * (factors * logprobs).sum() + of_entropy * (factors.flip(0) * entropy.square()).sum()
    leaves = [tensor for tensor in (hidden, weight, bias) if tensor is not None]
    return logprobs, entropy, torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("of_logprobs", "of_entropy"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.3)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_it_equals_the_plain_way(chunk_tokens, with_bias, of_logprobs, of_entropy, temperature):
    given = inputs(11, with_bias)
    found = results(token_logprobs, *given, Distribution(temperature), of_logprobs, of_entropy)
    expected = results(plain, *given, Distribution(temperature), of_logprobs, of_entropy)
    assert (found[0] - expected[0]).abs().max() <= 1e-5
    assert (found[1] - expected[1]).abs().max() <= 1e-5
    for mine, theirs in zip(found[2], expected[2], strict=True):
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


def test_numerical_gradients(chunk_tokens):
    hidden, weight, bias, targets = inputs(5, True, torch.float64)
    assert torch.autograd.gradcheck(
        lambda *leaves: token_logprobs(*leaves, targets, Distribution(0.8)), (hidden, weight, bias)
    )


def test_bfloat16_is_as_near_to_the_truth_as_the_plain_way(chunk_tokens):
    given = inputs(64, True, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in given[:3]]
    truth = results(token_logprobs, *exact, given[3], SOFTMAX, 1.0, 0.3)
    found = results(token_logprobs, *given, SOFTMAX, 1.0, 0.3)
    plainly = results(plain, *given, SOFTMAX, 1.0, 0.3)
    assert found[0].dtype == found[1].dtype == torch.float32
    for mine, theirs, true in zip(found[2], plainly[2], truth[2], strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - true).norm() <= 1.2 * (theirs - true).norm() <= 0.02 * true.norm()


def test_large_logits_and_certain_tokens():
    hidden = torch.eye(2) * 1000.0
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    logprobs, entropy = token_logprobs(hidden, weight, None, torch.tensor([0, 2]), SOFTMAX)
    assert logprobs.tolist() == [0.0, -1000.0]
    assert entropy.tolist() == [0.0, 0.0]


def test_no_tokens_have_no_gradient():
    hidden, weight, _, targets = inputs(0, False)
    logprobs, entropy = token_logprobs(hidden, weight, None, targets, SOFTMAX)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert not weight.grad.any()


def test_no_tensor_grows_with_vocabulary_times_tokens(monkeypatch):
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * VOCABULARY * 4)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes())
            return result

    hidden, weight, _, targets = inputs(100, False)
    with Watch():
        logprobs, entropy = token_logprobs(hidden, weight, None, targets, SOFTMAX)
        (logprobs + entropy).sum().backward()
    # 100 tokens' hidden states are the largest of all; their logits would be larger.
    assert largest == 4 * 100 * HIDDEN < 4 * 100 * VOCABULARY


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, bias, targets = inputs(5, True)
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, bias, targets, SOFTMAX)[0].sum().backward()
    assert hidden.grad is not None
    assert bias.grad is not None
    assert weight.grad is None


def test_a_layer_becomes_a_head_and_stays_itself():
    layer = nn.Linear(HIDDEN, VOCABULARY, bias=False)
    weight = layer.weight
    hidden, _, _, targets = inputs(3, False)
    logits = layer(hidden)
    LogprobHead.replace(layer)
    assert layer.weight is weight
    assert torch.equal(layer(hidden), logits)
    expected = plain(hidden, weight, None, targets, Distribution(0.5))
    for mine, theirs in zip(layer(hidden, targets, Distribution(0.5)), expected, strict=True):
        assert (mine - theirs).abs().max() <= 1e-5
    with pytest.raises(AssertionError, match="lm_head is a Embedding"):
        LogprobHead.replace(nn.Embedding(2, 2))


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_float32_head_beside_bfloat16_gives_the_log_probs_of_the_float32_product(chunk_tokens, with_bias):
    hidden, weight, bias, targets = inputs(11, with_bias, torch.bfloat16)
    wide = [None if leaf is None else leaf.detach().float() for leaf in (hidden, weight, bias)]
    found = token_logprobs(hidden, weight, bias, targets, Distribution(0.7), in_float32=True)
    for mine, theirs in zip(found, plain(*wide, targets, Distribution(0.7)), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).abs().max() <= 1e-5
    rounded = token_logprobs(hidden, weight, bias, targets, Distribution(0.7))
    assert (rounded[0] - found[0]).abs().max() > 1e-3, "without it logits are rounded to bfloat16"


def test_a_float32_heads_gradients_are_those_of_the_float32_product_up_to_bfloat16(chunk_tokens):
    hidden, weight, _, targets = inputs(11, False, torch.bfloat16)
    wide = [leaf.detach().float().requires_grad_() for leaf in (hidden, weight)]
    factors = torch.linspace(-1, 2, 11)
    (factors * token_logprobs(hidden, weight, None, targets, SOFTMAX, in_float32=True)[0]).sum().backward()
    (factors * plain(*wide, None, targets, SOFTMAX)[0]).sum().backward()
    for mine, theirs in zip((hidden, weight), wide, strict=True):
        assert mine.grad.dtype == torch.bfloat16
        assert (mine.grad.float() - theirs.grad).norm() <= 0.01 * theirs.grad.norm()


def test_in_float32_a_float32_head_changes_nothing(chunk_tokens):
    given = inputs(11, True)
    for mine, theirs in zip(
        token_logprobs(*given, SOFTMAX, in_float32=True), token_logprobs(*given, SOFTMAX), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_the_module_computes_in_float32_if_it_is_told_so():
    module = nn.Linear(HIDDEN, VOCABULARY, bias=False, dtype=torch.bfloat16)
    LogprobHead.replace(module, in_float32=True)
    hidden, _, _, targets = inputs(5, False, torch.bfloat16)
    found = module(hidden, targets)[0]
    assert torch.equal(found, token_logprobs(hidden, module.weight, None, targets, SOFTMAX, True)[0])
    assert not torch.equal(found, token_logprobs(hidden, module.weight, None, targets, SOFTMAX, False)[0])
