"""Reads a launch file, applies presets and overrides, and records where each value was set.

A later layer wins over an earlier one: defaults, the file's preset, the file's values, the command line's preset,
the other values of the command line. A preset on the command line also replaces the file's.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssr1_rl.config.presets import preset_values
from ssr1_rl.config.schema import Config
from ssr1_rl.config.values import Key, Origins, build_section, dotted, entries, lay_over, origin_of
from ssr1_rl.errors import ConfigError

Layer = dict[str | int, object]
"""Plain settings, nested as in a launch file."""


def read_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The launch file at `path` (None: only the defaults) with `overrides` such as `grpo.group_size=16` applied.

    Rules between several settings are checked by `ssr1_rl.checks.rules.load_config`, which calls this.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a wrong type, a value out of
            bounds, or a missing required setting.
    """
    values, origins = _read_yaml(Path(path)) if path is not None else ({}, {})
    given = [_parse_override(override) for override in overrides]
    for key, value, origin in given:
        origins |= dict.fromkeys(_keys_within(value, key), origin)
    merged: object = dataclasses.asdict(Config())
    for layer in _in_order(values, [_nested(key, value) for key, value, _ in given], origins):
        merged = lay_over(merged, layer, Config)
    _refuse_missing(merged, path)
    config = build_section(Config, _resolved(dict(entries(merged)), origins), (), origins)
    config.grpo.denominator_tokens = config.grpo.denominator_tokens or config.rollout.max_response_tokens
    return config


def config_to_yaml(config: Config) -> str:
    """The resolved settings as YAML, every default included."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)), resolve=True)


def _in_order(file: Layer, overrides: list[Layer], origins: Origins) -> list[Layer]:
    """The layers over the defaults, the winning one last."""
    chosen = [preset for override in overrides if (preset := _preset_in(override, origins)) is not None]
    if chosen:
        return [file, {"grpo": preset_values(chosen[-1])}, *overrides]
    return [{"grpo": preset_values(_preset_in(file, origins) or "")}, file, *overrides]


def _preset_in(values: Layer, origins: Origins) -> str | None:
    """The preset that a layer names; None if it names none."""
    section = values.get("grpo")
    if not isinstance(section, dict) or "preset" not in section:
        return None
    resolved = _resolved({"grpo": {"preset": section["preset"]}}, origins)["grpo"]
    return str(dict(entries(resolved))["preset"])


def _resolved(values: Layer, origins: Origins) -> Layer:
    """`values` with every `${…}` replaced by its value."""
    try:
        return dict(entries(OmegaConf.to_container(OmegaConf.create(values), resolve=True)))
    except OmegaConfBaseException as error:
        key = _key_of(error.full_key or "")
        cause = str(error).splitlines()[0].rpartition(" raised while resolving interpolation: ")[2].strip('"')
        raise ConfigError(f"{origin_of(key, origins)}{dotted(key)}: {cause}") from error


def _refuse_missing(values: object, path: str | Path | None, key: Key = ()) -> None:
    if values == MISSING:
        raise ConfigError(f"{path or 'settings'}: {dotted(key)} is required and not set")
    for name, inner in entries(values):
        _refuse_missing(inner, path, (*key, name))


def _read_yaml(path: Path) -> tuple[Layer, dict[Key, str]]:
    if not path.is_file():
        raise ConfigError(f"launch file {path} does not exist")
    text = path.read_text()
    try:
        lines = {key: f"{path}:{line}" for key, line in _line_numbers(yaml.compose(text, yaml.SafeLoader), ())}
        values = OmegaConf.to_container(OmegaConf.create(text)) if yaml.safe_load(text) else {}
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections such as `run:` and `model:`, got a {type(values).__name__}")
    return {str(name): section for name, section in values.items()}, lines


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


def _parse_override(override: str) -> tuple[Key, object, str]:
    """Splits `section.setting=value` into its key and value, and gives its name in errors."""
    name, equals, raw = override.partition("=")
    origin = f"override {override!r}"
    key = _key_of(name)
    if not equals or "" in key:
        raise ConfigError(f"{origin} must look like section.setting=value")
    if not raw:
        return key, "", origin
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{origin}: {raw!r} is not a YAML value; close its brackets and quotes, or quote the whole: {name}='\"…\"'"
        ) from error
    return key, dict(entries(value))["value"], origin


def _key_of(name: str) -> Key:
    """A dotted name as a key; an index may be written as in `rewards[0].weight` or in `rewards.0.weight`."""
    parts = name.replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _nested(key: Key, value: object) -> Layer:
    return {key[0]: _nested(key[1:], value) if key[1:] else value}


def _keys_within(value: object, key: Key) -> Iterator[Key]:
    yield key
    for name, inner in entries(value):
        yield from _keys_within(inner, (*key, name))
