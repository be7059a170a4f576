"""The learner's log-probs under top-k, top-p and min-p are those of vLLM's sampler."""

import pytest
import torch

from ssr1_rl.trainer.model.logprobs import token_logprobs
from ssr1_rl.trainer.model.truncation import DROPPED, drop_, lowest_kept
from ssr1_rl.types import Distribution

TRUNCATIONS = [
    Distribution(0.7, top_p=0.8),
    Distribution(1.0, top_k=5),
    Distribution(1.3, min_p=0.2),
    Distribution(0.9, top_p=0.9, top_k=12, min_p=0.05),
    Distribution(1.0, top_p=1e-6),
    Distribution(1.0, top_k=1),
    Distribution(1.0, top_k=10_000),
    Distribution(1.0, min_p=1.0),
]


def by_vllm(logits, distribution):
    """Log-probs [T, V] as vLLM's sampler reports them (`processed_logprobs`): min_p, then top-k and top-p."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = logits / distribution.temperature
    probs = logits.softmax(-1)
    logits = logits.masked_fill(probs < probs.amax(-1, keepdim=True) * distribution.min_p, -torch.inf)
    num, vocabulary = logits.shape
    k = torch.full((num,), min(distribution.top_k or vocabulary, vocabulary))
    logits = apply_top_k_top_p_pytorch(logits, k, torch.full((num,), distribution.top_p))
    return logits.log_softmax(-1)


@pytest.mark.parametrize("distribution", TRUNCATIONS, ids=str)
def test_logprobs_are_those_of_vllm_s_sampler(distribution):
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 8), torch.randn(60, 8)
    expected = by_vllm(hidden @ weight.T, distribution)
    # As the engine does, the tokens are sampled from the truncated distribution.
    targets = torch.multinomial(expected.exp(), 1)[:, 0]
    logprobs, entropies = token_logprobs(hidden, weight, None, targets, distribution)
    torch.testing.assert_close(logprobs, expected.gather(-1, targets[:, None])[:, 0], atol=1e-5, rtol=1e-5)
    entropy = -(expected.exp() * expected.masked_fill(expected.isinf(), 0.0)).sum(-1)
    torch.testing.assert_close(entropies, entropy, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("distribution", TRUNCATIONS[:4], ids=str)
def test_gradients_are_those_of_a_softmax_over_the_kept_tokens(distribution):
    torch.manual_seed(1)
    hidden, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((9, 6), (30, 6)))
    targets = torch.randint(30, (9,))
    plain = (hidden @ weight.T) / distribution.temperature
    tempered = Distribution(1.0, distribution.top_p, distribution.top_k, distribution.min_p)
    dropped = plain.detach() < lowest_kept(plain.detach(), tempered)[:, None]
    dropped.scatter_(-1, targets[:, None], False)
    expected = plain.masked_fill(dropped, -torch.inf).log_softmax(-1)
    entropy = -(expected.exp() * expected.masked_fill(dropped, 0.0)).sum(-1)
    of_logprobs, of_entropies = torch.randn(2, 9, dtype=torch.float64)
    loss = (expected.gather(-1, targets[:, None])[:, 0] * of_logprobs).sum() + (entropy * of_entropies).sum()
    wanted = torch.autograd.grad(loss, (hidden, weight))
    logprobs, entropies = token_logprobs(hidden, weight, None, targets, distribution)
    found = torch.autograd.grad((logprobs * of_logprobs).sum() + (entropies * of_entropies).sum(), (hidden, weight))
    for gradient, expected_gradient in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)


def test_a_sampled_token_that_the_policy_now_drops_keeps_a_finite_log_prob():
    logits = torch.tensor([[5.0, 4.0, -3.0]])
    lowest, target = lowest_kept(logits, Distribution(top_k=1)), torch.tensor([2])
    drop_(logits, lowest, target)
    assert logits.tolist() == [[5.0, DROPPED, -3.0]]


def test_the_nucleus_is_that_of_what_top_k_leaves():
    # Of all four tokens, 0.6 needs two; of the two that top_k leaves, the first alone has 0.62.
    logits = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    assert lowest_kept(logits, Distribution(top_p=0.6)).exp().item() == pytest.approx(0.3)
    assert lowest_kept(logits, Distribution(top_p=0.6, top_k=2)).exp().item() == pytest.approx(0.5)


@pytest.mark.parametrize(("distribution", "largest"), [(Distribution(top_p=0.9), 3), (Distribution(top_k=5), 10)])
def test_a_chunk_is_sorted_in_parts(monkeypatch, distribution, largest):
    """The sort of top_p holds several copies of the logits, which the estimate of memory does not count."""
    sizes = []

    def recorded(logits, distribution):
        sizes.append(len(logits))
        return lowest_kept(logits, distribution)

    monkeypatch.setattr("ssr1_rl.trainer.model.logprobs.lowest_kept", recorded)
    token_logprobs(torch.randn(10, 8), torch.randn(60, 8), None, torch.zeros(10, dtype=torch.long), distribution)
    assert (max(sizes), sum(sizes)) == (largest, 10)
