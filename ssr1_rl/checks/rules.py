"""Which values a run's settings may have, one by one and together.

Every error says where the value was set, which field, its value, and the mend.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from ssr1_rl.checks.engine_options import refuse_owned
from ssr1_rl.config.presets import check_family
from ssr1_rl.config.schema import Config, ConfigError, LearnerConfig, ModelConfig
from ssr1_rl.config.values import Key, Origins, nearest, refused
from ssr1_rl.rewards.load import check_built_in
from ssr1_rl.trainer.attention.choice import what_is_missing
from ssr1_rl.trainer.deepspeed_options import check_deepspeed_options


def check_config(config: Config, origins: Origins) -> None:
    """Checks every bound, then the settings that have to fit together. Raises `ConfigError`."""
    for key, spec, value in _walk(config, ()):
        _check_bound(key, spec, value, origins)
    _check_together(config)


def _walk(section: Any, key: Key) -> Iterator[tuple[Key, dataclasses.Field[Any], Any]]:
    for spec in dataclasses.fields(section):
        value = getattr(section, spec.name)
        child = (*key, spec.name)
        yield child, spec, value
        if dataclasses.is_dataclass(value):
            yield from _walk(value, child)
        elif isinstance(value, list):
            for index, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    yield from _walk(item, (*child, index))
        elif isinstance(value, dict):
            for name, item in value.items():
                if dataclasses.is_dataclass(item):
                    yield from _walk(item, (*child, name))


def _check_bound(key: Key, spec: dataclasses.Field[Any], value: Any, origins: Origins) -> None:
    if problem := _out_of_bounds(spec, value):
        why = f" ({spec.metadata['why']})" if spec.metadata.get("why") else ""
        raise refused(key, origins, f"{problem}, got {value!r}{why}", value)


def _out_of_bounds(spec: dataclasses.Field[Any], value: Any) -> str:
    bound = spec.metadata
    if bound.get("choices") and value not in bound["choices"]:
        choices = [str(choice) for choice in bound["choices"]]
        near = nearest(str(value), choices)
        named = ", ".join(filter(None, choices)) + (", or empty for none" if "" in choices else "")
        return f"must be one of {named}" + (f" (did you mean {near}?)" if near else "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value) or (math.isinf(value) and spec.default != value):
            return "must be a finite number"
        if bound.get("ge") is not None and value < bound["ge"]:
            return f"must be at least {bound['ge']:g}"
        if bound.get("gt") is not None and value <= bound["gt"]:
            return f"must be greater than {bound['gt']:g}"
        if bound.get("le") is not None and value > bound["le"]:
            return f"must be at most {bound['le']:g}"
    return ""


def _check_together(config: Config) -> None:
    """The rules that join several settings, each named as a sentence."""
    _every_rank_has_a_group_of_each_minibatch(config)
    _rewards_are_named_once(config)
    check_deepspeed_options(config.learner)
    _state_can_be_offloaded(config.learner)
    _adapters_have_targets(config.model)
    refuse_owned(config.rollout)
    _adam_betas_are_shares(config.learner)
    check_family(config.grpo)
    _attention_suits_device_and_dtype(config)
    if config.model.dtype == "bfloat16" and config.learner.zero_stage == 0:
        raise ConfigError(
            "learner.zero_stage must be 1, 2 or 3 with model.dtype=bfloat16 (only ZeRO keeps float32 masters), got 0"
        )
    if config.run.device == "cpu" and config.rollout.weight_transfer == "nccl":
        raise ConfigError("rollout.weight_transfer=nccl needs run.device=cuda; set it to auto or gloo")


def _every_rank_has_a_group_of_each_minibatch(config: Config) -> None:
    questions, minibatches, ranks = (
        config.grpo.questions_per_step,
        config.grpo.num_minibatches,
        config.learner.num_workers,
    )
    if questions % minibatches:
        near = max(1, round(questions / minibatches)) * minibatches
        raise ConfigError(
            f"grpo.questions_per_step must be divisible by grpo.num_minibatches={minibatches}, got {questions}; "
            f"the nearest that fits is {near}"
        )
    if questions // minibatches < ranks:
        raise ConfigError(
            f"grpo.questions_per_step must be at least learner.num_workers x grpo.num_minibatches "
            f"({ranks} x {minibatches} = {ranks * minibatches}), a question for every learner rank in every "
            f"mini-batch, got {questions}"
        )


def _rewards_are_named_once(config: Config) -> None:
    if not config.rewards:
        raise ConfigError("rewards must name at least one reward function, got an empty list")
    names = [r.name or r.path for r in config.rewards]
    for index, (reward, name) in enumerate(zip(config.rewards, names, strict=True)):
        if not reward.path:
            check_built_in(reward.name, f"rewards.{index}")
        if name in names[:index]:
            raise ConfigError(f"rewards.{index}.name {name!r} is used twice; give one of them another name")
        if not math.isfinite(reward.weight):
            raise ConfigError(f"rewards.{index}.weight must be a finite number, got {reward.weight}")


def _adam_betas_are_shares(learner: LearnerConfig) -> None:
    if not all(0 <= beta < 1 for beta in learner.adam_betas):
        raise ConfigError(f"learner.adam_betas must be at least 0 and less than 1, got {learner.adam_betas}")


def _state_can_be_offloaded(learner: LearnerConfig) -> None:
    if learner.offload_optimizer != "none" and learner.zero_stage == 0:
        raise ConfigError(
            f"learner.offload_optimizer={learner.offload_optimizer} needs learner.zero_stage 1, 2 or 3, got 0"
        )
    if learner.offload_parameters != "none" and learner.zero_stage != 3:
        raise ConfigError(
            f"learner.offload_parameters={learner.offload_parameters} needs learner.zero_stage=3 (only it shards the "
            f"parameters), got {learner.zero_stage}"
        )


def _adapters_have_targets(model: ModelConfig) -> None:
    if model.lora.rank and not model.lora.target_modules:
        raise ConfigError(
            f"model.lora.target_modules must name at least one linear layer with model.lora.rank={model.lora.rank}, "
            "got []; set model.lora.rank=0 to train the whole policy"
        )


def _attention_suits_device_and_dtype(config: Config) -> None:
    wanted = config.model.attn_implementation
    if wanted != "auto" and (missing := what_is_missing(wanted, config.run.device, config.model.dtype)):
        raise ConfigError(f"model.attn_implementation={wanted} cannot run: {missing}; set it to auto")
