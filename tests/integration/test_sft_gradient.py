"""The gradient of SFT is that of a plain loop in transformers: in float64, for every ZeRO stage, one and two ranks."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from ssr1_rl.types import TrainGroup
from tests.integration.plain_model import PlainModel
from tests.integration.ranks import num_tokens, random_groups, run_ranks

CASES = [(stage, packed) for stage in (0, 1, 2, 3) for packed in (True, False)]
"""ZeRO stage, and whether a question's responses are packed behind one prompt."""


def gradients_in_float64(
    rank: int, world_size: int, port: int, model: str, groups: list[TrainGroup]
) -> dict[Any, dict[str, np.ndarray]]:
    """For every case the gradient of every parameter under its published name, and the loss of all ranks."""
    from deepspeed.accelerator import get_accelerator

    from ssr1_rl.trainer.batches.balance import share_groups
    from ssr1_rl.trainer.deepspeed_setup import RankSpec

    spec = RankSpec(rank, world_size, "127.0.0.1", port, "cpu")
    own = share_groups(groups, world_size, num_tokens)[rank]
    # ZeRO-0 sums only the dtypes that DeepSpeed lists for a device; for CPUs it does not list float64.
    dtypes = [*get_accelerator().supported_dtypes(), torch.float64]
    with mock.patch.object(get_accelerator(), "supported_dtypes", lambda: dtypes):
        return {(stage, packed): _gradient(spec, model, own, stage, packed) for stage, packed in CASES}


def _gradient(spec: Any, model: str, groups: list[TrainGroup], stage: int, packed: bool) -> dict[str, np.ndarray]:
    from deepspeed.utils import safe_get_full_grad

    from ssr1_rl.config.sections.learner import LearnerConfig
    from ssr1_rl.config.sections.model import ModelConfig
    from ssr1_rl.distill.finetuning.learner import SftLearner
    from ssr1_rl.trainer.collectives import sums_over_ranks
    from ssr1_rl.weights.parameters import trainable_parameters

    settings = LearnerConfig(
        num_workers=spec.world_size,
        num_threads=1,
        zero_stage=stage,  # type: ignore[arg-type]
        prefix_packing=packed,
        max_tokens_per_micro_batch=120,
    )
    model_settings = ModelConfig(path=model, dtype="float64", train_audio_tower=True)  # type: ignore[arg-type]
    learner = SftLearner(spec, model_settings, settings, seed=0)
    rows, device = learner._rows(groups), learner.engine.device
    tokens = sums_over_ranks({"tokens": float(sum(len(row.response) for row in rows))}, device)["tokens"]
    loss = sums_over_ranks({"loss": learner.compute_gradient(rows, tokens)["loss"]}, device)["loss"]
    grads = {n: safe_get_full_grad(p) for n, p in trainable_parameters(learner.model).items()}
    return {n: g.detach().double().numpy().copy() for n, g in grads.items()} | {"loss": np.array(loss)}


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_gradient_is_that_of_a_plain_loop_in_float64(random_audio_model: Path, world_size: int) -> None:
    plain = PlainModel(random_audio_model, weights={})
    plain.model.requires_grad_(True)
    config = plain.model.config
    groups = random_groups(4, range(10, config.text_config.vocab_size), config.audio_token_id)
    total = -sum(plain(group, response)[0].sum() for group in groups for response in group.responses)
    assert isinstance(total, torch.Tensor)
    loss = total / sum(len(response) for group in groups for response in group.responses)
    loss.backward()
    from ssr1_rl.weights.parameters import checkpoint_name

    expected = {
        checkpoint_name(name, "qwen2_audio"): parameter.grad.numpy()
        for name, parameter in plain.model.named_parameters()
        if "embed_positions" not in name
    }
    norm = np.sqrt(sum((value**2).sum() for value in expected.values()))
    for case, found in run_ranks(gradients_in_float64, world_size, str(random_audio_model), groups).items():
        assert float(found.pop("loss")) == pytest.approx(loss.item(), rel=1e-6), case
        assert found.keys() == expected.keys()
        difference = np.sqrt(sum(((found[name] - value) ** 2).sum() for name, value in expected.items()))
        assert difference <= 1e-6 * norm, (case, difference / norm)
