"""Numbers that stop a run before it is spoilt: log-probs and weights compared between engines and learner."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ssr1_rl.config.schema import GuardConfig


class GuardTripped(RuntimeError):
    """Engines and learner disagree; the message names the figure, its limit and the usual causes."""


def check_update(metrics: Mapping[str, float], config: GuardConfig, step: int) -> None:
    """Checks a step's learner metrics before its weights go anywhere: finite figures, and log-prob differences.

    Raises:
        GuardTripped: a loss, gradient or log-prob that is no finite number, or a difference above its limit.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise GuardTripped(
                f"step {step}: the learner's {name} is {metrics[name]}; the update goes nowhere. "
                "Lower learner.learning_rate or learner.max_grad_norm, and look at the step's rewards for extremes"
            )
    if not math.isfinite(metrics["kl_to_rollout"]):
        # The loss need not show it: its ratio is bounded.
        raise GuardTripped(
            f"step {step}: kl_to_rollout is {metrics['kl_to_rollout']}: a log-prob of the rollout engines or of the "
            "learner is no finite number; the update goes nowhere. Lower learner.learning_rate, and look at "
            "rollout.engine_args for settings that change sampling"
        )
    limits = {
        "logprob_abs_diff_mean": config.max_logprob_abs_diff_mean,
        "logprob_abs_diff_max": config.max_logprob_abs_diff,
    }
    for name, limit in limits.items():
        if metrics["comparable_tokens"] and not metrics[name] <= limit:
            setting = "guard.max_" + name.removesuffix("_max")
            raise GuardTripped(
                f"step {step}: {name} between rollout engines and learner is {metrics[name]:.3g} over "
                f"{metrics['comparable_tokens']:.0f} tokens sampled by the current policy, above {setting}={limit:g}. "
                "Usual causes: a weight sync that did not reach the engines; an encoder or prefix cache of older "
                "weights; engine arguments that change sampling (rollout.engine_args); quantised engines; bfloat16 "
                "(0.01 to 0.03 is normal there). If the figure is fine for your set-up, raise the limit"
            )


def check_weights(learner: Mapping[str, str], reports: Sequence[Mapping[str, Any]]) -> None:
    """Compares checksums of every tensor: what the learner holds, and what each engine worker was handed.

    Args:
        learner: digest by checkpoint name.
        reports: one of `WeightAudit.finish_weight_audit` per engine worker.

    Raises:
        GuardTripped: a tensor is missing on one side or differs, or an engine parameter was never loaded.
    """
    for index, report in enumerate(reports):
        handed = report["digests"]
        missing = sorted(learner.keys() - handed.keys())
        strange = sorted(handed.keys() - learner.keys())
        differing = sorted(name for name in learner.keys() & handed.keys() if learner[name] != handed[name])
        for what, names in (
            ("never reached it", missing),
            ("reached it unasked", strange),
            ("arrived changed", differing),
            ("are its own parameters that no tensor was loaded into", list(report["untouched"])),
        ):
            if names:
                raise GuardTripped(
                    f"weight sync to engine worker {index} failed its check: of {len(learner)} tensors "
                    f"{len(names)} {what}, "
                    f"{names[0]} for one. The usual cause is a model whose parameters vLLM names otherwise"
                )
