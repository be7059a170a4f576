"""The GRPO family by name: what each preset sets, and which paper it follows."""

from collections.abc import Mapping
from dataclasses import dataclass

from ssr1_rl.config.sections.grpo import GrpoConfig


@dataclass(frozen=True)
class Preset:
    """The settings of section `grpo` that follow one paper."""

    source: str
    values: Mapping[str, object]


_GROUP_RELATIVE = {"baseline": "group_mean", "advantage_scale": "group_std"}
_CLIPPED = {"ratio": "token", "clip_low": 0.2, "clip_high": 0.2}
# No ratio falls below 0, and none is above e^20 (`LARGEST_LOG_RATIO`).
_UNCLIPPED = {"ratio": "token", "clip_low": 1.0, "clip_high": 1e9}

PRESETS = {
    "grpo": Preset(
        "DeepSeekMath, arXiv 2402.03300, eq. 3 and 4",
        _GROUP_RELATIVE
        | _CLIPPED
        | {"denominator": "sequence", "kl_coefficient": 0.04, "kl_estimator": "k3", "kl_placement": "loss"},
    ),
    "dapo": Preset(
        "DAPO, arXiv 2503.14476, eq. 8 to 13",
        _GROUP_RELATIVE
        | _CLIPPED
        | {
            "clip_high": 0.28,
            "denominator": "batch_tokens",
            "kl_coefficient": 0.0,
            "dynamic_sampling": True,
            "overlong": "penalty",
            "overlong_buffer_share": 0.2,
        },
    ),
    "dr_grpo": Preset(
        "Dr. GRPO, arXiv 2503.20783, section 3.2",
        _CLIPPED
        | {"baseline": "group_mean", "advantage_scale": "none", "denominator": "constant", "kl_coefficient": 0.0},
    ),
    "gspo": Preset(
        # The clip range is far below the difference between engine and learner in bfloat16 (0.01 to 0.02 nats per
        # token): a ratio to the engine's log-probs would be clipped before the policy has moved. With importance
        # weights the ratio starts at 1, from the learner's own log-probs.
        "GSPO, arXiv 2507.18071, eq. 5 to 7 and section 5.1; truncated importance weights correct for the engine",
        _GROUP_RELATIVE
        | {
            "ratio": "sequence",
            "clip_low": 3e-4,
            "clip_high": 4e-4,
            "denominator": "sequence",
            "kl_coefficient": 0.0,
            "importance_correction": "truncate",
        },
    ),
    "cispo": Preset(
        # No lower bound, as in the paper. The paper gives no upper bound: 5 is TRL's value for ScaleRL
        # (arXiv 2510.13786).
        "CISPO, MiniMax-M1, arXiv 2506.13585, eq. 4 and 5",
        _GROUP_RELATIVE
        | {
            "ratio": "cispo",
            "clip_low": 1.0,
            "clip_high": 4.0,
            "denominator": "batch_tokens",
            "kl_coefficient": 0.0,
        },
    ),
    "rloo": Preset(
        # REINFORCE has no clip; a ratio other than 1 only weights what an older policy or another engine sampled.
        "RLOO, arXiv 2402.14740, KL coefficient of appendix C; its sum over tokens divided by a constant",
        _UNCLIPPED
        | {
            "baseline": "leave_one_out",
            "advantage_scale": "none",
            "denominator": "constant",
            "kl_coefficient": 0.03,
            "kl_estimator": "k1",
            "kl_placement": "reward",
        },
    ),
    "reinforce_pp": Preset(
        "REINFORCE++, arXiv 2501.03262",
        _CLIPPED
        | {
            "baseline": "batch_mean",
            "advantage_scale": "batch_std",
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
