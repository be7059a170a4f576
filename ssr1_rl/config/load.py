"""Reads a launch file, lays presets and overrides over it, and refuses what is wrong before anything starts.

Layers, later ones winning: defaults, the file's preset, the file's values, the command line's preset, the other
values of the command line. A preset on the command line also takes the place of the file's.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssr1_rl.checks.rules import check_config
from ssr1_rl.config.presets import preset_values
from ssr1_rl.config.schema import Config, ConfigError
from ssr1_rl.config.values import Key, Origins, build, defaults, dotted, lay_over, origin_of


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Reads the launch file at `path` (None: defaults alone) under dot-list `overrides`.

    Raises:
        ConfigError: unknown key (with the nearest known one), wrong type, value out of
            bounds, missing required setting, or settings that do not fit together.
    """
    values, origins = _read_yaml(Path(path)) if path is not None else ({}, {})
    given = [_parse_override(override) for override in overrides]
    for key, value, origin in given:
        origins |= dict.fromkeys(_keys_within(value, key), origin)
    layers = _in_order(values, [_nested(key, value) for key, value, _ in given], origins)
    merged = defaults(Config)
    for layer in layers:
        merged = lay_over(merged, layer, Config)
    _refuse_missing(merged, path)
    config: Config = build(Config, _resolved(merged, origins), (), origins)
    check_config(config, origins)
    config.grpo.denominator_tokens = config.grpo.denominator_tokens or config.rollout.max_response_tokens
    return config


def config_to_yaml(config: Config) -> str:
    """The resolved settings as YAML, every default included."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def _in_order(file: dict[str, Any], overrides: list[dict[str, Any]], origins: Origins) -> list[dict[str, Any]]:
    """What lies over the defaults, the winning layer last."""
    chosen = [preset for override in overrides if (preset := _preset_in(override, origins)) is not None]
    if chosen:
        return [file, {"grpo": preset_values(chosen[-1])}, *overrides]
    return [{"grpo": preset_values(_preset_in(file, origins) or "")}, file, *overrides]


def _preset_in(values: dict[str, Any], origins: Origins) -> str | None:
    """The preset that a layer names; None if it names none."""
    section = values.get("grpo")
    if not isinstance(section, dict) or "preset" not in section:
        return None
    return str(_resolved({"grpo": {"preset": section["preset"]}}, origins)["grpo"]["preset"])


def _resolved(values: dict[str, Any], origins: Origins) -> Any:
    """`values` with what `${…}` stands for."""
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True)
    except OmegaConfBaseException as error:
        key = _key_of(error.full_key or "")
        cause = str(error).splitlines()[0].rpartition(" raised while resolving interpolation: ")[2].strip('"')
        raise ConfigError(f"{origin_of(key, origins)}{dotted(key)}: {cause}") from error


def _refuse_missing(values: Any, path: str | Path | None, key: Key = ()) -> None:
    if values == MISSING:
        raise ConfigError(f"{path or 'settings'}: {dotted(key)} is required and not set")
    if isinstance(values, dict | list):
        for name, inner in values.items() if isinstance(values, dict) else enumerate(values):
            _refuse_missing(inner, path, (*key, name))


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, str]]:
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


def _parse_override(override: str) -> tuple[Key, Any, str]:
    """`section.setting=value` as key, value and the override's own name in errors."""
    name, equals, raw = override.partition("=")
    origin = f"override {override!r}"
    key = _key_of(name)
    if not equals or "" in key:
        raise ConfigError(f"{origin} must look like section.setting=value")
    if not raw:
        return key, "", origin
    try:
        value: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={raw}"]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(
            f"{origin}: {raw!r} is not a YAML value; close its brackets and quotes, or quote the whole: {name}='\"…\"'"
        ) from error
    return key, value["value"], origin


def _key_of(name: str) -> Key:
    """A dotted name as a key; `rewards[0].weight` is `rewards.0.weight`."""
    parts = name.replace("[", ".").replace("]", "").split(".")
    return tuple(int(part) if part.isdigit() else part for part in parts)


def _nested(key: Key, value: Any) -> dict[str, Any]:
    for part in reversed(key):
        value = {part: value}
    return value


def _keys_within(value: Any, key: Key) -> Iterator[Key]:
    yield key
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _keys_within(inner, (*key, name))
