"""Writes trl_losses.json: losses, gradients and advantages that TRL's own code computes from random tensors.

    .venv-trl/bin/python tests/golden/trl_losses.py        (make venv-trl makes the environment)

`GRPOTrainer._compute_loss` runs on a stand-in for the trainer that has its settings and gives it the log-probs. Its
importance weights and its advantages are computed within a method that also generates, so these lines are cut out of
its source and run by themselves. All in float64. `tests/unit/algorithm/test_against_trl.py` compares.
"""

import inspect
import json
import math
import textwrap
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import torch
import trl
from trl import GRPOConfig
from trl.trainer import grpo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

OUTPUT = Path(__file__).with_suffix(".json")
LENGTHS = (5, 1, 7, 3, 4, 6)
LONGEST = max(LENGTHS)
LOSSES = {
    "grpo": {"loss_type": "grpo"},
    "dapo, epsilon_high": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dr_grpo": {"loss_type": "dr_grpo", "max_completion_length": 11},
    "delta": {"loss_type": "dapo", "delta": 1.4},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.3},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
    "sapo": {"loss_type": "sapo"},
    "sapo, temperatures": {"loss_type": "sapo", "sapo_temperature_pos": 2.0, "sapo_temperature_neg": 5.0},
    "sapo, sequence": {"loss_type": "sapo", "importance_sampling_level": "sequence"},
    "k3": {"loss_type": "grpo", "beta": 0.3, "use_bias_correction_kl": False},
    "unbiased k3": {"loss_type": "dapo", "beta": 0.3, "use_bias_correction_kl": True},
    "opsm": {"loss_type": "dapo", "off_policy_mask_threshold": 0.02},
    "opsm, k3": {"loss_type": "grpo", "off_policy_mask_threshold": 0.02, "beta": 0.3, "use_bias_correction_kl": False},
    "truncated weights": {"loss_type": "dapo", "mode": "token_truncate", "clip_max": 1.2},
    "truncated weights, floor": {"loss_type": "dapo", "mode": "token_truncate", "clip_max": 1.2, "clip_min": 0.9},
    "icepop": {"loss_type": "grpo", "mode": "token_mask", "clip_max": 1.3, "clip_min": 0.8},
    "masked sequences": {"loss_type": "grpo", "mode": "sequence_mask", "clip_max": 1.5, "clip_min": 0.6},
    "gspo, truncated sequences": {
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "mode": "sequence_truncate",
        "clip_max": 1.1,
    },
    "sapo, icepop, opsm": {
        "loss_type": "sapo",
        "mode": "token_mask",
        "clip_max": 1.3,
        "clip_min": 0.8,
        "off_policy_mask_threshold": 0.02,
    },
}
ADVANTAGES = {
    "group": {},
    "none": {"scale_rewards": "none"},
    "batch": {"scale_rewards": "batch"},
    "gdpo": {"multi_objective_aggregation": "normalize_then_sum"},
}


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)  # TRL makes constants without a dtype
    mask = torch.tensor([[1.0] * n + [0.0] * (LONGEST - n) for n in LENGTHS], dtype=torch.float64)
    draw = {name: scale * torch.randn(mask.shape, dtype=torch.float64) for name, scale in SCALES.items()}
    old = -4.0 * torch.rand(mask.shape, dtype=torch.float64)
    tensors = {"old": old} | {name: old + moved for name, moved in draw.items()}
    advantages = torch.randn(len(LENGTHS), dtype=torch.float64)
    entropy = 3.0 * torch.rand(mask.shape, dtype=torch.float64)
    rewards = torch.tensor(
        [[1, 0], [0, 0.3], [0, 0.3], [1, 0], [1, 1], [1, 0], [1, 0.2], [1, 0.1]], dtype=torch.float64
    )
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    found = {
        "versions": {"trl": trl.__version__, "torch": torch.__version__.split("+")[0]},
        "lengths": LENGTHS,
        **{name: ragged(values) for name, values in tensors.items()},
        "entropy": ragged(entropy),
        "advantages": advantages.tolist(),
        "rewards": rewards.tolist(),
        "reward_weights": weights.tolist(),
        "losses": {
            name: {"settings": settings} | loss_of(dict(settings), tensors, mask, advantages, entropy)
            for name, settings in LOSSES.items()
        },
        "advantages_of": {
            name: {"settings": settings, "advantages": advantages_of(settings, rewards, weights)}
            for name, settings in ADVANTAGES.items()
        },
    }
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


SCALES = {"new": 0.3, "rollout": 0.2, "ref": 0.4}
"""How far log-probs differ from the old policy's."""


def ragged(values: torch.Tensor) -> list[list[float]]:
    return [row[:n].tolist() for row, n in zip(values, LENGTHS, strict=True)]


def loss_of(settings, tensors, mask, advantages, entropy) -> dict[str, object]:
    """The loss of one update, and its gradient by the new log-probs."""
    mode = settings.pop("mode", None)
    bounds = [settings.pop(name, None) for name in ("clip_min", "clip_max")]
    args = GRPOConfig(output_dir="none", bf16=False, report_to=[], beta=settings.pop("beta", 0.0), **settings)
    trainer = SimpleNamespace(
        args=args,
        beta=args.beta,
        loss_type=args.loss_type,
        epsilon_low=args.epsilon,
        epsilon_high=args.epsilon if args.epsilon_high is None else args.epsilon_high,
        importance_sampling_level=args.importance_sampling_level,
        off_policy_mask_threshold=args.off_policy_mask_threshold,
        max_completion_length=args.max_completion_length,
        use_vllm=mode is not None,
        vllm_importance_sampling_correction=mode is not None,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=bounds[0],
        vllm_importance_sampling_clip_max=bounds[1],
        top_entropy_quantile=1.0,
        aux_loss_enabled=False,
        _entropy_bonus_enabled=False,
        current_gradient_accumulation_steps=1,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, gather_for_metrics=lambda x: x, reduce=lambda x, reduction: x
        ),
        _metrics={"train": defaultdict(list)},
        get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
    )
    args.steps_per_generation = 1
    new = tensors["new"].clone().requires_grad_()
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (new, entropy, None)
    nothing = torch.zeros(len(mask), 0, dtype=torch.long)
    inputs = {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": mask.long(),
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": tensors["old"],
        "sampling_per_token_logps": tensors["rollout"],
        "ref_per_token_logps": tensors["ref"],
        "num_items_in_batch": mask.sum(),
    }
    if mode:
        inputs["importance_sampling_ratio"] = run_lines(
            "if self.use_vllm and self.vllm_importance_sampling_correction:\n                mask =",
            "# Compute the per-token log probabilities for the reference model",
            self=trainer,
            completion_mask=mask,
            tool_mask=None,
            old_per_token_logps=tensors["old"],
            sampling_per_token_logps=tensors["rollout"],
        )["vllm_importance_sampling_ratio"]
    loss = GRPOTrainer._compute_loss(trainer, None, inputs)
    loss.backward()
    return {"loss": loss.item(), "gradient": ragged(new.grad)}


def advantages_of(settings, rewards, weights) -> list[float]:
    """Advantages of two groups of four responses."""
    trainer = SimpleNamespace(
        multi_objective_aggregation=settings.get("multi_objective_aggregation", "sum_then_normalize"),
        scale_rewards=settings.get("scale_rewards", "group"),
        reward_weights=weights,
        reward_funcs=[None] * len(weights),
    )
    found = run_lines(
        'if self.multi_objective_aggregation == "sum_then_normalize":',
        "# Slice to keep only the local part of the data",
        self=trainer,
        rewards_per_func=rewards,
        unscorable_mask=torch.isnan(rewards).all(dim=1),
        num_generations=4,
        device="cpu",
    )
    return found["advantages"].tolist()


def run_lines(first: str, after_last: str, **variables) -> dict[str, object]:
    """Runs the lines of `_generate_and_score_completions` from `first` up to `after_last`."""
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert source.count(first) == 1, f"TRL's source has changed: {first}"
    start = source.rindex("\n", 0, source.index(first)) + 1
    lines = textwrap.dedent(source[start : source.index(after_last, start)].rstrip(" "))
    exec(lines, vars(grpo_trainer) | {"math": math}, variables)
    return variables


if __name__ == "__main__":
    main()
