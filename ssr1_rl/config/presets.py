"""The GRPO family by name: what each preset sets, and which paper it follows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ssr1_rl.config.sections.grpo import GrpoConfig


@dataclass(frozen=True)
class Preset:
    """The settings of section `grpo` that follow one paper."""

    source: str
    values: Mapping[str, object]


_PLAIN = {"whiten_advantages": False, "normalize_each_reward": False}
_GROUP_RELATIVE = _PLAIN | {"baseline": "group_mean", "advantage_scale": "group_std"}
_CLIPPED = {"ratio": "token", "clip": "hard", "clip_low": 0.2, "clip_high": 0.2}

PRESETS = {
    "grpo": Preset(
        "DeepSeekMath, arXiv 2402.03300, eq. 3 and 4",
        _GROUP_RELATIVE
        | _CLIPPED
        | {"denominator": "sequence", "kl_coefficient": 0.04, "kl_estimator": "k3", "kl_placement": "loss"},
    ),
    "dapo": Preset(
        # DAPO's rewards are 1 and -1, and its longest response loses 1. With rewards of 1 and 0 that is a penalty of
        # 0.5: a right answer at the limit lies half-way between a right and a wrong one that are short.
        "DAPO, arXiv 2503.14476, eq. 8 to 13, its penalty scaled to rewards of 0 and 1",
        _GROUP_RELATIVE
        | _CLIPPED
        | {
            "clip_high": 0.28,
            "denominator": "batch_tokens",
            "kl_coefficient": 0.0,
            "dynamic_sampling": True,
            "overlong": "penalty",
            "overlong_penalty": 0.5,
            "overlong_buffer_share": 0.2,
        },
    ),
    "dr_grpo": Preset(
        "Dr. GRPO, arXiv 2503.20783, section 3.2",
        _PLAIN
        | _CLIPPED
        | {"baseline": "group_mean", "advantage_scale": "none", "denominator": "constant", "kl_coefficient": 0.0},
    ),
    "gspo": Preset(
        # The clip range is far below the difference between engine and learner in bfloat16 (0.01 to 0.02 nats per
        # token): a ratio to the engine's log-probs would be clipped before the policy has moved. With importance
        # weights the ratio starts at 1, from the learner's own log-probs. GSPO's gradient is one of whole responses, so
        # the weights are too.
        "GSPO, arXiv 2507.18071, eq. 5 to 7 and section 5.1; truncated importance weights correct for the engine",
        _GROUP_RELATIVE
        | {
            "ratio": "sequence",
            "clip": "hard",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "denominator": "sequence",
            "kl_coefficient": 0.0,
            "importance_correction": "truncate",
            "importance_level": "sequence",
        },
    ),
    "cispo": Preset(
        # No lower bound, as in the paper. The paper gives no upper bound: 5 is TRL's value for ScaleRL
        # (arXiv 2510.13786).
        "CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4 and 5",
        _GROUP_RELATIVE
        | {
            "ratio": "cispo",
            "clip": "hard",
            "clip_low": 1.0,
            "clip_high": 4.0,
            "denominator": "batch_tokens",
            "kl_coefficient": 0.0,
        },
    ),
    "rloo": Preset(
        # REINFORCE has no clip. What an older policy or another engine sampled is weighted by its ratio, which is cut
        # at 2, because a single token could have any weight otherwise (verl's REINFORCE with truncated weights).
        "RLOO, arXiv 2402.14740, KL coefficient of appendix C; its sum over tokens divided by a constant",
        _PLAIN
        | {
            "ratio": "cispo",
            "clip": "hard",
            "clip_low": 1.0,
            "clip_high": 1.0,
            "baseline": "leave_one_out",
            "advantage_scale": "none",
            "denominator": "constant",
            "kl_coefficient": 0.03,
            "kl_estimator": "k1",
            "kl_placement": "reward",
        },
    ),
    "lite_ppo": Preset(
        "Lite PPO, arXiv 2508.08221: the group's mean, the batch's standard deviation, a loss over tokens",
        _PLAIN
        | _CLIPPED
        | {
            "baseline": "group_mean",
            "advantage_scale": "batch_reward_std",
            "batch_statistics": "responses",
            "denominator": "batch_tokens",
            "kl_coefficient": 0.0,
        },
    ),
    "gdpo": Preset(
        # The paper is about advantages; the loss is GRPO's.
        "GDPO, arXiv 2601.05242",
        _GROUP_RELATIVE
        | _CLIPPED
        | {
            "normalize_each_reward": True,
            "whiten_advantages": True,
            "batch_statistics": "responses",
            "denominator": "sequence",
            "kl_coefficient": 0.0,
        },
    ),
    "gmpo": Preset(
        # The paper's range is e^-0.4 to e^0.4.
        "GMPO, arXiv 2507.20673",
        _GROUP_RELATIVE
        | {
            "ratio": "geometric_mean",
            "clip": "hard",
            "clip_low": 1.0 - math.exp(-0.4),
            "clip_high": math.exp(0.4) - 1.0,
            "denominator": "sequence",
            "kl_coefficient": 0.0,
        },
    ),
    "sapo": Preset(
        "SAPO, arXiv 2511.20347",
        _GROUP_RELATIVE
        | {
            "ratio": "token",
            "clip": "soft",
            "soft_clip_positive": 1.0,
            "soft_clip_negative": 1.05,
            "denominator": "sequence",
            "kl_coefficient": 0.0,
        },
    ),
    "icepop": Preset(
        "IcePop, Ring-1T, arXiv 2510.18855: GRPO whose tokens are masked outside an importance weight of 0.5 to 5",
        _GROUP_RELATIVE
        | _CLIPPED
        | {
            "denominator": "sequence",
            "kl_coefficient": 0.0,
            "importance_correction": "mask",
            "importance_level": "token",
            "importance_cap": 5.0,
            "importance_floor": 0.5,
        },
    ),
    "reinforce_pp_baseline": Preset(
        # The coefficient is a starting point.
        "REINFORCE++ with a group's mean as baseline, arXiv 2501.03262",
        _PLAIN
        | _CLIPPED
        | {
            "baseline": "group_mean",
            "advantage_scale": "none",
            "whiten_advantages": True,
            "batch_statistics": "tokens",
            "denominator": "batch_tokens",
            "kl_coefficient": 0.001,
            "kl_estimator": "k2",
            "kl_placement": "loss",
        },
    ),
    "reinforce_pp": Preset(
        "REINFORCE++, arXiv 2501.03262",
        _PLAIN
        | _CLIPPED
        | {
            "baseline": "batch_mean",
            "advantage_scale": "batch_std",
            "batch_statistics": "tokens",
            "denominator": "batch_tokens",
            "kl_coefficient": 0.001,
            "kl_estimator": "k1",
            "kl_placement": "reward_to_go",
        },
    ),
}


def preset_values(name: str) -> dict[str, object]:
    """What the preset sets in section `grpo`; empty without a preset, or for an unknown one (refused later)."""
    return dict(PRESETS[name].values) if name in PRESETS else {}


def describe_preset(grpo: GrpoConfig) -> list[str]:
    """Lines that list the preset's values, and the settings that override them; none without a preset."""
    if not grpo.preset:
        return []
    preset = PRESETS[grpo.preset]
    kept = [f"{name}={value}" for name, value in preset.values.items() if getattr(grpo, name) == value]
    other = [
        f"{name}={getattr(grpo, name)} instead of {value}"
        for name, value in preset.values.items()
        if getattr(grpo, name) != value
    ]
    lines = [f"preset {grpo.preset} ({preset.source}): {', '.join(kept)}"]
    return lines + ([f"overridden: {', '.join(other)}"] if other else [])
