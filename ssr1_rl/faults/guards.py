"""Checks that stop a run before bad weights are used: non-finite updates, and engines that differ from the learner."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ssr1_rl.config.sections.watch import GuardConfig
from ssr1_rl.errors import RunError

if TYPE_CHECKING:
    from ssr1_rl.weights.audit import AuditReport


class GuardTripped(RunError):
    """A guard's check failed; the message names the figure, its limit and the usual causes."""


def check_update(metrics: Mapping[str, float], config: GuardConfig, step: int) -> None:
    """Checks a step's learner metrics before its weights are sent: finite figures, and log-prob differences.

    Raises:
        GuardTripped: a loss, gradient or log-prob is not finite, or a difference is above its limit.
    """
    for name in ("loss", "grad_norm"):
        if not math.isfinite(metrics[name]):
            raise GuardTripped(
                f"step {step}: the learner's {name} is {metrics[name]}; the update is not sent to the engines. "
                "Lower learner.learning_rate or learner.max_grad_norm, and check the step's rewards for extreme values"
            )
    if not math.isfinite(metrics["kl_to_rollout"]):
        # The loss can be finite all the same, because its ratio is bounded.
        raise GuardTripped(
            f"step {step}: kl_to_rollout is {metrics['kl_to_rollout']}: a log-prob of the rollout engines or of the "
            "learner is not finite; the update is not sent to the engines. Lower learner.learning_rate, and check "
            "rollout.engine_args for settings that change sampling"
        )
    check_logprobs(metrics, config, step)


def check_logprobs(metrics: Mapping[str, float], config: GuardConfig, step: int) -> None:
    """Compares the differences between the log-probs of engines and learner with their limits; {} passes.

    Raises:
        GuardTripped: a difference is above its limit.
    """
    limits = {
        "logprob_abs_diff_mean": config.max_logprob_abs_diff_mean,
        "logprob_abs_diff_max": config.max_logprob_abs_diff,
    }
    for name, limit in limits.items():
        if metrics.get("comparable_tokens") and not metrics[name] <= limit:
            setting = "guard.max_" + name.removesuffix("_max")
            raise GuardTripped(
                f"step {step}: {name} between rollout engines and learner is {metrics[name]:.3g} over "
                f"{metrics['comparable_tokens']:.0f} tokens sampled by the current policy, above {setting}={limit:g}. "
                "Usual causes: a weight sync that did not reach the engines; an encoder or prefix cache of older "
                "weights; engine arguments that change sampling (rollout.engine_args); quantised engines; bfloat16 "
                "(0.01 to 0.03 is normal there). If the difference is acceptable in your setup, raise the limit"
            )


def check_weights(learner: Mapping[str, str], reports: "Sequence[Sequence[AuditReport]]") -> None:
    """Compares the learner's checksums, by checkpoint name, with those of each tensor-parallel rank of each engine.

    Raises:
        GuardTripped: a tensor is missing on one side or differs, or an engine parameter was never loaded.
    """
    ranks = [(worker, rank, report) for worker, all_of in enumerate(reports) for rank, report in enumerate(all_of)]
    for worker, rank, report in ranks:
        received = report["digests"]
        for what, names in (
            ("did not arrive", learner.keys() - received.keys()),
            ("are unknown to the learner", received.keys() - learner.keys()),
            ("differ on arrival", {n for n in learner.keys() & received.keys() if learner[n] != received[n]}),
            ("are its own parameters that no tensor was loaded into", report["untouched"]),
        ):
            if names:
                raise GuardTripped(
                    f"the weight sync to rollout worker {worker}, tensor-parallel rank {rank}, failed its check "
                    f"({len(learner)} tensors sent): {len(names)} {what}, for example {min(names)}. "
                    "The usual cause is a model whose parameters have other names in vLLM"
                )
