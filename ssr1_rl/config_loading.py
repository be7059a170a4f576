"""Reads a launch file, lays overrides over it, and refuses what is wrong before anything starts.

Every error says which file and line (or override), which field, its value, and the mend.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssr1_rl.config import Config, ConfigError, LearnerConfig, ModelConfig, RolloutConfig
from ssr1_rl.presets import check_family, preset_values
from ssr1_rl.rewards.base import check_built_in
from ssr1_rl.trainer.attention.choice import what_is_missing
from ssr1_rl.trainer.deepspeed_options import check_deepspeed_options

Key = tuple[str | int, ...]


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the launch file at `path` (None: defaults alone) under dot-list `overrides`.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, value out of
            bounds, missing required setting, or settings that do not fit together.
    """
    values: dict[str, Any] = {}
    lines: dict[Key, str] = {}
    if path is not None:
        values, lines = _read_yaml(Path(path))
        _refuse_unknown(values, Config, (), lines)
    merged = _layers({}, values, overrides, str(path), lines)
    preset = preset_values(_preset_of(merged, path))
    if preset:
        merged = _layers({"grpo": preset}, values, overrides, str(path), lines)
    try:
        missing = sorted(k for k in OmegaConf.missing_keys(merged) if k != "run.dir")  # run.dir follows run.name
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error}") from error
    if missing:
        raise ConfigError(f"{path or 'settings'}: {missing[0]} is required and not set")
    try:
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path or 'settings'}: {_first_line(error)}") from error
    check_config(config, lines)
    config.grpo.denominator_tokens = config.grpo.denominator_tokens or config.rollout.max_response_tokens
    return config


def _layers(
    base: dict[str, Any], values: dict[str, Any], overrides: Sequence[str], path: str, lines: dict[Key, str]
) -> DictConfig:
    """The defaults, `base` over them, the file's values over that, and the overrides on top."""
    merged: Any = OmegaConf.merge(OmegaConf.structured(Config), base)
    for section, content in values.items():
        merged = _merge(merged, {section: content}, lines.get((section,), path))
    for override in overrides:
        merged = _apply_override(merged, override, lines)
    return merged


def _preset_of(merged: DictConfig, path: str | Path | None) -> str:
    try:
        return merged.grpo.preset
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path or 'settings'}: {_first_line(error)}") from error


def check_config(config: Config, lines: dict[Key, str] | None = None) -> None:
    """Checks every bound, then the settings that have to fit together. Raises `ConfigError`."""
    for key, spec, value in _walk(config, ()):
        _check_bound(key, spec, value, lines or {})
    _check_together(config)


def config_to_yaml(config: Config) -> str:
    """The resolved settings as YAML, every default included."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
    if not path.is_file():
        raise ConfigError(f"launch file {path} does not exist")
    text = path.read_text()
    try:
        values = yaml.safe_load(text) or {}
        lines = {key: f"{path}:{line}" for key, line in _line_numbers(yaml.compose(text, yaml.SafeLoader), ())}
        values = OmegaConf.to_container(OmegaConf.create(text) if values else OmegaConf.create({}))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as `run:` and `model:`, got a {type(values).__name__}")
    return cast(dict[str, Any], values), lines


def _line_numbers(node: yaml.Node | None, key: Key) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            child = (*key, name.value)
            yield child, name.start_mark.line + 1
            yield from _line_numbers(value, child)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _line_numbers(value, (*key, index))


def _refuse_unknown(values: Any, kind: Any, key: Key, lines: dict[Key, str]) -> None:
    """Walks the file's own keys beside the dataclasses, so that the error can name the line."""
    kind = _strip_optional(kind)
    if dataclasses.is_dataclass(kind) and isinstance(values, dict):
        hints = typing.get_type_hints(kind)
        for name, value in values.items():
            child = (*key, name)
            if name not in hints:
                raise ConfigError(_unknown(child, list(hints), lines.get(child, "settings")))
            _refuse_unknown(value, hints[name], child, lines)
    elif typing.get_origin(kind) is list:
        if not isinstance(values, list):
            where = lines.get(key, "settings")
            raise ConfigError(f"{where}: {dotted(key)} must be a list, got a {type(values).__name__}: {values!r}")
        for index, value in enumerate(values):
            _refuse_unknown(value, typing.get_args(kind)[0], (*key, index), lines)
    elif typing.get_origin(kind) is dict and isinstance(values, dict):
        for name, value in values.items():
            _refuse_unknown(value, typing.get_args(kind)[1], (*key, name), lines)


def _strip_optional(kind: Any) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return next(a for a in typing.get_args(kind) if a is not type(None))
    return kind


def _unknown(key: Key, known: list[str], where: str) -> str:
    prefix = ".".join(map(str, key[:-1]))
    near = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
    place = f"{prefix}." if prefix else ""
    mend = f"did you mean {place}{near[0]}?" if near else f"known there: {', '.join(known)}"
    return f"{where}: unknown setting {dotted(key)}; {mend}"


def _merge(merged: Any, values: dict[str, Any], where: str) -> Any:
    try:
        return OmegaConf.merge(merged, values)
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from error


def _apply_override(merged: DictConfig, override: str, lines: dict[Key, str]) -> DictConfig:
    name, equals, raw = override.partition("=")
    where = f"override {override!r}"
    if not equals or not name:
        raise ConfigError(f"{where} must look like section.setting=value")
    key: Key = tuple(
        int(part) if part.isdigit() else part for part in name.replace("[", ".").replace("]", "").split(".")
    )
    nested: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))["value"]  # type: ignore[index]
    value = nested
    for part in reversed(key):
        nested = {part: nested}
    _refuse_unknown_override(nested, Config, (), where)
    lines[key] = where
    if not any(isinstance(part, int) for part in key):
        return _merge(merged, cast(dict[str, Any], nested), where)
    try:
        OmegaConf.update(merged, "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in key).lstrip("."), value)
    except (OmegaConfBaseException, IndexError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from error
    return merged


def _refuse_unknown_override(nested: Any, kind: Any, key: Key, where: str) -> None:
    kind = _strip_optional(kind)
    if isinstance(nested, list) and typing.get_origin(kind) is list:
        nested = dict(enumerate(nested))
    if not isinstance(nested, dict):
        return
    hints = typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}
    for name, inner in nested.items():
        child = (*key, name)
        if dataclasses.is_dataclass(kind):
            if name not in hints:
                raise ConfigError(_unknown(child, list(hints), where))
            _refuse_unknown_override(inner, hints[name], child, where)
        elif typing.get_origin(kind) in (list, dict):
            _refuse_unknown_override(inner, typing.get_args(kind)[-1], child, where)


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


def _check_bound(key: Key, spec: dataclasses.Field[Any], value: Any, lines: dict[Key, str]) -> None:
    bound = spec.metadata
    problem = ""
    if bound.get("choices") and value not in bound["choices"]:
        near = difflib.get_close_matches(str(value), [str(c) for c in bound["choices"]], n=1)
        problem = f"must be one of {', '.join(map(str, bound['choices']))}" + (
            f" (did you mean {near[0]}?)" if near else ""
        )
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isnan(value) or (math.isinf(value) and spec.default != value):
            problem = "must be a finite number"
        elif bound.get("ge") is not None and value < bound["ge"]:
            problem = f"must be at least {bound['ge']:g}"
        elif bound.get("gt") is not None and value <= bound["gt"]:
            problem = f"must be greater than {bound['gt']:g}"
        elif bound.get("le") is not None and value > bound["le"]:
            problem = f"must be at most {bound['le']:g}"
    if problem:
        why = f" ({bound['why']})" if bound.get("why") else ""
        where = f"{lines[key]}: " if key in lines else ""
        raise ConfigError(f"{where}{dotted(key)} {problem}, got {value!r}{why}")


def _check_together(config: Config) -> None:
    """The rules that join several settings, each named as a sentence."""
    _groups_divide_over_ranks_and_minibatches(config)
    _rewards_are_named_once(config)
    check_deepspeed_options(config.learner)
    _state_can_be_offloaded(config.learner)
    _adapters_have_targets(config.model)
    _engines_keep_what_the_system_relies_on(config.rollout)
    _adam_betas_are_shares(config.learner)
    check_family(config.grpo)
    _attention_suits_device_and_dtype(config)
    if config.model.dtype == "bfloat16" and config.learner.zero_stage == 0:
        raise ConfigError(
            "learner.zero_stage must be 1, 2 or 3 with model.dtype=bfloat16 (only ZeRO keeps float32 masters), got 0"
        )
    if config.run.device == "cpu" and config.rollout.weight_transfer == "nccl":
        raise ConfigError("rollout.weight_transfer=nccl needs run.device=cuda; set it to auto or gloo")


def _groups_divide_over_ranks_and_minibatches(config: Config) -> None:
    questions, minibatches, ranks = (
        config.grpo.questions_per_step,
        config.grpo.num_minibatches,
        config.learner.num_workers,
    )
    if questions % (minibatches * ranks):
        unit = minibatches * ranks
        near = max(unit, round(questions / unit) * unit)
        raise ConfigError(
            f"grpo.questions_per_step must be divisible by learner.num_workers x grpo.num_minibatches "
            f"({ranks} x {minibatches} = {unit}), got {questions}; the nearest that fits is {near}"
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


_OWNED_BY_SYSTEM = (
    "data_parallel_size",
    "dtype",
    "generation_config",
    "logprobs_mode",
    "max_model_len",
    "max_num_seqs",
    "model",
    "pipeline_parallel_size",
    "seed",
    "tensor_parallel_size",
    "weight_transfer_config",
    "worker_extension_cls",
)


def _engines_keep_what_the_system_relies_on(rollout: RolloutConfig) -> None:
    for name in _OWNED_BY_SYSTEM:
        if name in rollout.engine_args:
            raise ConfigError(
                f"rollout.engine_args.{name} is set by the system itself, got {rollout.engine_args[name]!r}; "
                "use the setting of that meaning in model, data or rollout"
            )


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


def dotted(key: Key) -> str:
    """A key as users write it: `rewards.0.weight`."""
    return ".".join(map(str, key))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    full_key = next((line.split(":", 1)[1].strip() for line in lines if line.strip().startswith("full_key")), "")
    return f"{full_key}: {lines[0]}" if full_key else lines[0]
