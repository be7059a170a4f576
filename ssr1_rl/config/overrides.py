"""Overrides of the command line: `section.setting=value` sets a setting, `~section.setting` drops what was set."""

import re
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ssr1_rl.config.kinds import Key, dotted, entries, has_names, is_section, kind_at
from ssr1_rl.config.schema import Config
from ssr1_rl.config.yaml_text import read_value
from ssr1_rl.errors import ConfigError

Layer = dict[str | int, object]
"""Plain settings, nested as in a launch file."""

_PART = r"[^.\[\]]+(\[[0-9]+\])*"


@dataclass(frozen=True)
class Override:
    """One override, with its name in errors."""

    key: Key
    value: object
    origin: str
    drops: bool = False  # the entry, and with it what the file or an earlier override set

    @property
    def layer(self) -> Layer:
        """The override as a launch file would hold it."""
        return _nested(self.key, self.value)

    @property
    def origins(self) -> dict[Key, str]:
        """Its name for its own key and for everything in its value."""
        return dict.fromkeys(_keys_within(self.value, self.key), self.origin)


def parse_override(text: str, schema: type = Config) -> Override:
    """Reads one override of a launch file that holds `schema`.

    Raises:
        ConfigError: it does not look like one, or its value is not YAML.
    """
    origin = f"override {text!r}"
    if text.startswith("--"):
        fix = f"an override has none: {text.lstrip('-')}" if "=" in text else "--help lists the options"
        raise ConfigError(f"{origin} begins with dashes; {fix}")
    if text.startswith("~"):
        if "=" in text:
            raise ConfigError(f"{origin} must be ~section.setting alone: it drops what the launch file sets there")
        return Override(_key_of(text[1:], origin, schema), None, origin, drops=True)
    name, equals, raw = text.partition("=")
    if not equals:
        raise ConfigError(f"{origin} must look like section.setting=value, without spaces around the =")
    key = _key_of(name, origin, schema)
    kind = kind_at(key, schema)
    value = read_value(raw, kind, key, origin)
    if value == {} and is_section(kind):
        raise ConfigError(f"{origin} sets nothing; ~{dotted(key)} drops what the launch file sets in {dotted(key)}")
    # A split of `data.validation` is a section in a mapping: null drops it.
    return Override(key, value, origin, drops=value is None and is_section(kind) and is_entry(key, schema))


def is_entry(key: Key, schema: type = Config) -> bool:
    """Whether `key` names an entry of a mapping such as `data.validation`."""
    return typing.get_origin(kind_at(key[:-1], schema)) is dict


def drop(override: Override, layers: Sequence[Layer]) -> list[Layer]:
    """The layers before an override that drops an entry, without this entry.

    Raises:
        ConfigError: none of them sets it, or it is an entry of a list.
    """
    if isinstance(override.key[-1], int):
        raise ConfigError(
            f"{override.origin}: an entry of a list cannot be dropped alone; set the whole list: "
            f"{dotted(override.key[:-1])}=[…]"
        )
    kept = [_without(layer, override.key) for layer in layers]
    if kept == list(layers):
        there = sorted({str(name) for layer in layers for name in _names_at(layer, override.key[:-1])})
        known = f"; set there: {', '.join(there)}" if there else ""
        raise ConfigError(f"{override.origin}: nothing sets {dotted(override.key)}, so nothing is dropped{known}")
    return kept


def _key_of(name: str, origin: str, schema: type) -> Key:
    """A dotted name as a key; an index may be written as in `rewards[0].weight` or in `rewards.0.weight`."""
    if name != name.strip():
        raise ConfigError(f"{origin}: write section.setting=value without spaces around the =")
    if not re.fullmatch(rf"{_PART}(\.{_PART})*", name):
        raise ConfigError(
            f"{origin} must look like section.setting=value, where an entry of a list has its index from 0: "
            "rewards[0].weight=0.5"
        )
    key: Key = ()
    for part in name.replace("[", ".").replace("]", "").split("."):
        is_index = re.fullmatch("[0-9]+", part) and not has_names(kind_at(key, schema))
        key = (*key, int(part) if is_index else part)
    return key


def _nested(key: Key, value: object) -> Layer:
    return {key[0]: _nested(key[1:], value) if key[1:] else value}


def _keys_within(value: object, key: Key) -> Iterator[Key]:
    yield key
    for name, inner in entries(value):
        yield from _keys_within(inner, (*key, name))


def _without(value: object, key: Key) -> Any:
    """`value` without the entry at `key`; unchanged if it has none."""
    first, rest = key[0], key[1:]
    if isinstance(value, list):
        return [_without(inner, rest) if rest and index == first else inner for index, inner in enumerate(value)]
    if not isinstance(value, dict):
        return value
    return {
        name: _without(inner, rest) if name == first else inner
        for name, inner in value.items()
        if name != first or rest
    }


def _names_at(value: object, key: Key) -> list[str | int]:
    for name in key:
        value = dict(entries(value)).get(name)
    return [name for name, _ in entries(value)]
