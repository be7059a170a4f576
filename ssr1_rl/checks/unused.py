"""Settings that are set but have no effect, because another setting switches off what they belong to."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ssr1_rl.config.schema import SECTIONS, Config
from ssr1_rl.config.sections.run import RunConfig


@dataclass(frozen=True)
class Unused:
    """Settings that have no effect under a condition.

    Attributes:
        names: the settings, with their sections.
        because: the condition in words.
        holds: whether it holds.
        fix: what to do instead.
    """

    names: tuple[str, ...]
    because: str
    holds: Callable[[Config], bool]
    fix: str


def _on_gpus(config: Config) -> bool:
    return config.run.device == "cuda"


RULES = [
    Unused(
        ("grpo.kl_estimator", "grpo.kl_placement"),
        "with grpo.kl_coefficient=0",
        lambda c: not c.grpo.kl_coefficient,
        "set a coefficient (0.01, for example)",
    ),
    Unused(
        ("grpo.denominator_tokens",),
        "without grpo.denominator=constant",
        # `read_settings` fills it in.
        lambda c: c.grpo.denominator != "constant" and c.grpo.denominator_tokens != c.rollout.max_response_tokens,
        "set grpo.denominator=constant",
    ),
    Unused(
        ("grpo.advantage_epsilon",),
        "with grpo.advantage_scale=none",
        lambda c: c.grpo.advantage_scale == "none",
        "set grpo.advantage_scale",
    ),
    Unused(
        ("grpo.validate_every",),
        "without data.validation",
        lambda c: not c.data.validation,
        "name a split: data.validation.NAME.path",
    ),
    Unused(
        ("model.lora.alpha", "model.lora.target_modules"),
        "with model.lora.rank=0",
        lambda c: not c.model.lora.rank,
        "set model.lora.rank",
    ),
    Unused(
        ("rollout.kv_cache_gib", "rollout.num_threads"),
        "with run.device=cuda",
        _on_gpus,
        "leave it out (rollout.gpu_memory_utilization bounds an engine's memory)",
    ),
    Unused(
        ("learner.num_threads",),
        "with run.device=cuda and learner.offload_optimizer=none",
        lambda c: _on_gpus(c) and c.learner.offload_optimizer == "none",
        "leave it out",
    ),
    Unused(
        ("rollout.gpu_memory_utilization",),
        "with run.device=cpu",
        lambda c: not _on_gpus(c),
        "use rollout.kv_cache_gib",
    ),
    Unused(
        ("learner.offload_optimizer", "learner.offload_parameters"),
        "with run.device=cpu",
        lambda c: not _on_gpus(c),
        "leave it out: all of it is in host memory",
    ),
    Unused(
        ("telemetry.tracker_project",),
        "without telemetry.trackers",
        lambda c: not c.telemetry.trackers,
        "name a tracker: telemetry.trackers=[wandb]",
    ),
    Unused(
        ("sft.chains", "sft.max_chains_per_question"),
        "with sft.responses=labels",
        lambda c: c.sft.responses == "labels",
        "set sft.responses=validated or kept to learn chains",
    ),
    Unused(
        ("sft.label_template",),
        "without sft.responses=labels",
        lambda c: c.sft.responses != "labels",
        "leave it out: chains are learned as they are",
    ),
    Unused(
        ("sft.validation_share",),
        "with sft.validate_every=0",
        lambda c: not c.sft.validate_every,
        "set sft.validate_every; nothing is held out",
    ),
    Unused(
        ("teacher.min_vote_share",),
        "without teacher.keep=majority",
        lambda c: c.teacher.keep != "majority",
        "set teacher.keep=majority",
    ),
    Unused(
        ("teacher.endpoint.max_requests", "teacher.endpoint.max_tokens"),
        "without teacher.endpoint.url",
        lambda c: not c.teacher.endpoint.url,
        "set teacher.endpoint.url; engines of the cluster answer",
    ),
    Unused(
        ("verifier.claim_pattern", "verifier.max_claims"),
        "without verifier.method=claims",
        lambda c: c.verifier.method != "claims",
        "leave it out",
    ),
    Unused(
        ("verifier.custom.path",),
        "without verifier.method=custom",
        lambda c: c.verifier.method != "custom",
        "set verifier.method=custom",
    ),
]


def unused_settings(config: Config, sections: Collection[str] = SECTIONS["grpo"]) -> list[str]:
    """A sentence for each setting of these sections that differs from its default and has no effect."""
    defaults = Config()
    return [
        f"{name}={_shown(value)} has no effect {rule.because}: {rule.fix}"
        for rule in RULES
        if rule.holds(config)
        for name in rule.names
        if name.partition(".")[0] in sections
        if (value := value_of(config, name)) != value_of(defaults, name)
    ]


def unused_by_answers(run: RunConfig) -> list[str]:
    """A sentence for each setting of `run` that has no effect on a command that only lets models answer rows."""
    found = []
    if run.resume != "auto":
        found.append(
            f"run.resume={run.resume} has no effect here: stored answers to the same requests are used again. To ask "
            "everything anew, set another run.dir"
        )
    if run.max_time_s:
        found.append(
            f"run.max_time_s={run.max_time_s:g} has no effect here: answers are stored as they come, so end the "
            "command whenever you like (SIGTERM); the same command asks for the others"
        )
    if run.wait_for_resources_s:
        found.append(
            f"run.wait_for_resources_s={run.wait_for_resources_s:g} has no effect here: a cluster that is too small "
            "for the engines is refused at once"
        )
    return found


def value_of(config: Config, name: str) -> object:
    """The value of a setting by its name, such as `model.lora.rank`."""
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _shown(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
