"""The loss at ratios and advantages that a test gives, and its gradient."""

import torch

from ssr1_rl.algorithm.loss import grpo_loss
from ssr1_rl.algorithm.tokens import LossTokens
from ssr1_rl.config.sections.grpo import GrpoConfig

OLD = -1.5


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def loss_of(
    ratios, advantages, divisor=1, index=None, rollout=None, ref=None, entropy=None, kl=0.0, in_loss=None, **settings
):
    """The loss at given ratios to an old policy, and the log-probs that it was taken at. By default clip 0.2 / 0.28."""
    old = torch.full((len(ratios),), OLD, dtype=torch.float64)
    logprobs = (old + double(ratios).log()).requires_grad_()
    index = index or [0] * len(ratios)
    tokens = LossTokens(
        logprobs,
        old,
        old if rollout is None else double(rollout),
        double(advantages),
        torch.zeros_like(old) if entropy is None else entropy,
        torch.tensor(index),
        max(index) + 1,
        None if ref is None else double(ref),
        None if in_loss is None else torch.tensor(in_loss),
    )
    return grpo_loss(tokens, divisor, GrpoConfig(**{"clip_high": 0.28} | settings), kl), logprobs


def gradient(terms, logprobs):
    terms.loss.backward()
    return logprobs.grad.tolist()
