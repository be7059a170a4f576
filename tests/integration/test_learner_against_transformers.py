"""The whole learner against transformers' own forward passes, with one row per response and a loss written out here.

The reference is in float64, without packing, batching, chunks or ranks. It uses only parameter names of the trainer.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssr1_rl.types import Distribution, TrainGroup
from tests.integration.plain_model import PlainModel
from tests.integration.ranks import make_learner, num_tokens, random_groups, run_ranks, whole_gradient

TEMPERATURE = 0.7
CASES = [
    {"denominator": "batch_tokens", "kl_coefficient": 0.3, "entropy_bonus": 0.02},
    {"denominator": "sequence", "kl_coefficient": 0.3, "kl_estimator": "k1", "clip_high": 0.28},
    # Without a KL term and an entropy bonus the learner leaves responses of advantage 0 out of its passes.
    {"denominator": "batch_tokens"},
]


def make_groups(model: PlainModel) -> list[TrainGroup]:
    """Groups with a masked response, advantages of 0, an empty and a one-token response; log-probs near the model's."""
    config = model.model.config
    groups = random_groups(4, range(10, config.text_config.vocab_size), config.audio_token_id)
    first, last = groups[2].responses[0][:1], groups[2].responses[2]
    groups[0] = replace(groups[0], loss_mask_G=(True, False, True))
    groups[1] = replace(groups[1], advantages_G=(0.0, 0.0, 0.0))
    groups[2] = replace(groups[2], responses=((), first, last))
    groups[3] = replace(groups[3], advantages_G=(0.9, 0.0, -0.9))
    rng = np.random.default_rng(0)

    def engine_logprobs(group: TrainGroup, response: tuple[int, ...]) -> tuple[float, ...]:
        own = model(group, response)[0].detach().numpy()
        return tuple((own + rng.normal(0, 0.3, len(response))).tolist())

    return [replace(g, rollout_logprobs=tuple(engine_logprobs(g, r) for r in g.responses)) for g in groups]


def plain_loss(model: PlainModel, start: PlainModel, groups: list[TrainGroup], case: dict[str, Any]) -> torch.Tensor:
    """The loss of the whole batch; `start` is the KL term's reference."""
    low, high = 0.8, 1.0 + case.get("clip_high", 0.2)
    beta, bonus = case.get("kl_coefficient", 0.0), case.get("entropy_bonus", 0.0)
    per_response = []
    clipped = 0
    for group in groups:
        for g, response in enumerate(group.responses):
            if not response or (group.loss_mask_G and not group.loss_mask_G[g]):
                continue
            logprobs_T, entropy_T = model(group, response)
            ratio_T = (logprobs_T - torch.tensor(group.rollout_logprobs[g])).exp()
            advantage = group.advantages_G[g]
            surrogate_T = torch.minimum(ratio_T * advantage, ratio_T.clamp(low, high) * advantage)
            clipped += int((surrogate_T < ratio_T * advantage).sum())
            loss_T = -surrogate_T - bonus * entropy_T
            if beta:
                d_T = logprobs_T - start(group, response)[0]
                loss_T = loss_T + beta * (d_T if case.get("kl_estimator") == "k1" else (-d_T).exp() + d_T - 1)
            per_response.append(loss_T)
    num_tokens = sum(len(loss_T) for loss_T in per_response)
    assert 0.1 * num_tokens < clipped < 0.9 * num_tokens
    if case["denominator"] == "batch_tokens":
        return torch.cat(per_response).sum() / num_tokens
    # Masked and empty responses count as responses.
    return torch.stack([loss_T.mean() for loss_T in per_response]).sum() / sum(len(g.responses) for g in groups)


def what_the_learner_finds(
    rank: int, world_size: int, port: int, model: str, groups: list[TrainGroup]
) -> list[dict[str, Any]]:
    """For every case: weights after an update, gradient and loss there, and the KL to the start by group."""
    from ssr1_rl.trainer.batches.balance import share_groups

    found = []
    share = share_groups(groups, world_size, num_tokens)[rank]
    for case in CASES:
        learner = make_learner(
            rank,
            world_size,
            port,
            model,
            of_model={"train_audio_tower": True},
            grpo=case,
            distribution=Distribution(TEMPERATURE),
            zero_stage=0,
            max_tokens_per_micro_batch=120,
        )
        learner.update([share])
        weights = {name: value.numpy().copy() for name, value in learner.model.state_dict().items()}
        gradient = whole_gradient(learner, share)
        kl: list[Any] = [{}] * world_size
        if "kl_coefficient" in case:
            of_share = zip(share, learner.reference_kl(share), strict=True)
            torch.distributed.all_gather_object(kl, {group.id: kl_G for group, kl_G in of_share})
        found.append({"weights": weights, "gradient": gradient, "kl": kl[0] | kl[1]})
    return found


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Uses one thread, because matrices are small and learner ranks need the cores."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def test_loss_gradient_and_kl_are_those_of_plain_forward_passes(random_audio_model: Path) -> None:
    start = PlainModel(random_audio_model, TEMPERATURE)
    groups = make_groups(start)
    for case, found in zip(CASES, run_ranks(what_the_learner_finds, 2, str(random_audio_model), groups), strict=True):
        check_gradient(found, PlainModel(random_audio_model, TEMPERATURE, found["weights"]), start, groups, case)
        if "kl_coefficient" in case:
            check_kl(found["kl"], start, groups, case)


def check_gradient(
    found: dict[str, Any], moved: PlainModel, start: PlainModel, groups: list[TrainGroup], case: dict[str, Any]
) -> None:
    from ssr1_rl.weights.parameters import checkpoint_name

    loss = plain_loss(moved, start, groups, case)
    loss.backward()
    expected = {
        checkpoint_name(name, "qwen2_audio"): parameter.grad.numpy()
        for name, parameter in moved.model.named_parameters()
        if "embed_positions" not in name
    }
    gradient = dict(found["gradient"])
    assert float(gradient.pop("loss")) == pytest.approx(loss.item(), rel=1e-5), case
    assert gradient.keys() == expected.keys()
    norms = {name: float(np.linalg.norm(value)) for name, value in expected.items()}
    total = float(np.linalg.norm(list(norms.values())))
    for name, value in expected.items():
        # Some gradients are 0 but for float error: softmax does not depend on a key's bias.
        scale = max(norms[name], 1e-3 * total)
        assert float(np.linalg.norm(gradient[name] - value)) <= 1e-5 * scale, (case, name)


def check_kl(found: dict[str, Any], start: PlainModel, groups: list[TrainGroup], case: dict[str, Any]) -> None:
    """The estimate is of the engine's policy to the start, masked and empty responses included."""
    for group in groups:
        for response, rollout, kl_T in zip(group.responses, group.rollout_logprobs, found[group.id], strict=True):
            d = np.array(rollout) - start(group, response)[0].detach().numpy()
            expected = d if case.get("kl_estimator") == "k1" else np.exp(-d) + d - 1
            assert kl_T == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-5)
