"""Checks that stop a run before bad weights are used.

They find updates and log-probs that are not finite, and engines that differ from the learner.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ssr1_rl.algorithm.step_batch import num_unusable_tokens
from ssr1_rl.config.sections.watch import GuardConfig
from ssr1_rl.errors import RunError
from ssr1_rl.types import ScoredGroup

if TYPE_CHECKING:
    from ssr1_rl.weights.audit import AuditReport


class GuardTripped(RunError):
    """A guard's check failed; the message names the figure, its limit and the usual causes."""


def check_update(metrics: Mapping[str, float], config: GuardConfig, step: int) -> None:
    """Checks a step's learner metrics before its weights are sent: finite figures, and log-prob differences.

    Raises:
        GuardTripped: a loss, gradient or log-prob is not finite, or a difference is above its limit.
    """
    for name in ("loss", "grad_norm", "kl_to_rollout"):
        check_finite(name, metrics[name], step)
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


def check_finite(name: str, value: float, step: int, advice: str = "") -> None:
    """Checks a figure of the learner's update before the optimizer makes its step.

    `advice` is added to the error.

    `kl_rollout` is the sum of the differences between the log-probs of engine and learner. It shows a log-prob of the
    learner that is not finite also where the loss is finite all the same, because its ratio is bounded.

    Raises:
        GuardTripped: the figure is not finite.
    """
    if math.isfinite(value):
        return
    meaning = ": a log-prob of the learner is not finite" if name.startswith("kl_") else ""
    raise GuardTripped(
        f"step {step}: the learner's {name} is {value}{meaning}; the update is not used, and the newest checkpoint "
        f"is not affected. Lower learner.learning_rate or learner.max_grad_norm{advice}"
    )


def check_rollout_logprobs(scored: Sequence[ScoredGroup], config: GuardConfig, step: int) -> None:
    """Checks a step's responses before the update: how many log-probs of the engines can be used.

    The loss leaves out the tokens of the others, so a few do no harm.

    Raises:
        GuardTripped: their share is above `guard.max_unusable_logprob_share`.
    """
    per_worker: Counter[str] = Counter()
    num_tokens = 0
    for s in scored:
        num_tokens += sum(len(completion.logprobs) for completion in s.group.completions)
        per_worker[s.group.worker or "an unknown worker"] += num_unusable_tokens([s])
    num_bad = per_worker.total()
    if num_bad <= config.max_unusable_logprob_share * num_tokens:
        return
    whose = ", ".join(f"{count} of {worker}" for worker, count in per_worker.most_common() if count)
    raise GuardTripped(
        f"step {step}: {num_bad} of the {num_tokens} log-probs that the rollout engines returned are not finite, or "
        f"above 0 ({whose}), more than guard.max_unusable_logprob_share={config.max_unusable_logprob_share:g} of them; "
        "nothing was updated. Run the same command again to resume from the newest checkpoint. If it happens again, "
        "try rollout.engine_args.enforce_eager=true (no CUDA graphs), and check rollout.engine_args for quantisation "
        "and for settings that change sampling; a worker that is alone with it may have a faulty GPU"
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
