"""Builds the dataclasses of `ssr1_rl.config.sections` from plain values, with errors in the terms of a launch file.

Every error says where a value came from (file and line, or override), which setting, its value, and the fix.
"""

import contextlib
import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from ssr1_rl.config.setting import HOLDS
from ssr1_rl.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")

Key = tuple[str | int, ...]
"""Path of a setting: ("rewards", 0, "weight")."""

Origins = Mapping[Key, str]
"""Where each value was set: "launch/local.yaml:7", or "override 'grpo.group_size=1'"."""

IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_TRUE, _FALSE = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


def entries(value: object) -> list[tuple[str | int, object]]:
    """The entries of a mapping or a list with their names or indices; empty for any other value."""
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return list(value.items()) if isinstance(value, dict) else []


def lay_over(base: object, values: object, kind: object) -> object:
    """Merges `values` over `base`: sections and mappings entry by entry, a list by index (`{0: …}`) or as a whole.

    New entries that are sections start from their defaults. `build_section` later refuses what does not fit `kind`.
    """
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is list and isinstance(values, list):
        return [lay_over(None, value, args[0]) for value in values]
    if not isinstance(values, dict):
        return values
    if origin is list:
        if not isinstance(base, list) or not all(index in range(len(base)) for index in values):
            return values
        return [lay_over(item, values[i], args[0]) if i in values else item for i, item in enumerate(base)]
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(base, dict | None):
            return base
        base, kinds = base or dataclasses.asdict(kind()), typing.get_type_hints(kind)
        return base | {name: lay_over(base.get(name), value, kinds.get(name)) for name, value in values.items()}
    base, inner = base if isinstance(base, dict) else {}, args[1] if origin is dict else None
    return base | {str(name): lay_over(base.get(str(name)), value, inner) for name, value in values.items()}


def build_section(kind: type[Section], value: object, key: Key, origins: Origins) -> Section:
    """Builds a section of the schema from `value`.

    Raises:
        ConfigError: an unknown setting (with the nearest known one), a value of another type, or one out of bounds.
    """
    kinds = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        example = dotted((*key, next(iter(kinds))))
        raise refused(
            key, origins, f"must hold settings ({', '.join(kinds)}; such as {example}=…), got {shown(value)}", value
        )
    for name in value:
        if name not in kinds:
            raise _unknown((*key, name), kinds, origins)
    section = kind(**{name: _build(kinds[name], inner, (*key, name), origins) for name, inner in value.items()})
    for spec in dataclasses.fields(section):
        _check_bounds(getattr(section, spec.name), spec, (*key, spec.name), origins)
    return section


def _check_bounds(value: object, spec: "dataclasses.Field[object]", key: Key, origins: Origins) -> None:
    """Refuses a number, alone or in a tuple, that is not finite or is out of the bounds of its field."""
    if isinstance(value, tuple):
        for index, inner in enumerate(value):
            _check_bounds(inner, spec, (*key, index), origins)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if math.isnan(value) or (math.isinf(value) and spec.default != value):
        raise refused(key, origins, f"must be a finite number, got {value!r}", value)
    for words, limit in spec.metadata.get("bounds", {}).items():
        if not HOLDS[words](value, limit):
            why = f" ({spec.metadata['why']})" if spec.metadata["why"] else ""
            raise refused(key, origins, f"must be {words} {limit:g}, got {value!r}{why}", value)


def _build(kind: object, value: object, key: Key, origins: Origins) -> object:
    """Converts `value` to the type `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is object:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return build_section(kind, value, key, origins)
    if origin is typing.Literal:
        return _build_choice(args, value, key, origins)
    if origin is list:
        if not isinstance(value, list):
            raise refused(key, origins, _list_wanted(key, args[0], value), value)
        return [_build(args[0], item, (*key, index), origins) for index, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise refused(key, origins, f"must be a list of {len(args)} values, got {shown(value)}", value)
        return tuple(_build(k, v, (*key, i), origins) for i, (k, v) in enumerate(zip(args, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise refused(key, origins, f"must hold settings (name: value), got {shown(value)}", value)
        return {str(name): _build(args[1], inner, (*key, name), origins) for name, inner in value.items()}
    assert isinstance(kind, type), f"{dotted(key)} has a type that no launch file can hold"
    return _build_scalar(kind, value, key, origins)


def _build_scalar(kind: type, value: object, key: Key, origins: Origins) -> object:
    text = str(value).strip()
    if isinstance(value, bool | int | float | str):
        if kind is str:
            return value if isinstance(value, str) else text
        if kind is bool and text.lower() in _TRUE + _FALSE:
            return text.lower() in _TRUE
        if (kind is float and not isinstance(value, bool)) or (kind is int and type(value) in (int, str)):
            with contextlib.suppress(ValueError):
                return kind(text)
    raise refused(key, origins, f"must be {IN_WORDS[kind]}, got {shown(value)}", value)


def _build_choice(choices: tuple[str | int, ...], value: object, key: Key, origins: Origins) -> str | int:
    by_name = {str(choice): choice for choice in choices}
    name = str(value).strip()
    if name in by_name:
        return by_name[name]
    near = nearest(name, by_name)
    problem = f"must be one of {', '.join(filter(None, by_name))}" + (", or empty for none" if "" in by_name else "")
    problem += f" (did you mean {near}?)" if near else ""
    raise refused(key, origins, f"{problem}, got {shown(value)}", value)


def _list_wanted(key: Key, kind: type, value: object) -> str:
    if isinstance(value, dict) and value and all(isinstance(index, int) for index in value):
        return f"has no entry {max(value)}; set the whole list, or an existing entry"
    if dataclasses.is_dataclass(kind):
        names = [spec.name for spec in dataclasses.fields(kind)]
        example = dotted((*key, 0, names[0]))
        return f"must be a list of entries that hold {', '.join(names)} (such as {example}=…), got {shown(value)}"
    return f"must be a list ([a, b]) of {IN_WORDS[kind]}, got {shown(value)}"


def _unknown(key: Key, known: Iterable[str], origins: Origins) -> ConfigError:
    near = nearest(str(key[-1]), known, cutoff=0.5)
    fix = f"did you mean {dotted((*key[:-1], near))}?" if near else f"known there: {', '.join(known)}"
    return ConfigError(f"{origin_of(key, origins)}unknown setting {dotted(key)}; {fix}")


def refused(key: Key, origins: Origins, problem: str, value: object) -> ConfigError:
    """The error for a value with a problem: "launch.yaml:4: grpo.group_size must be …"."""
    within = (*key, next(iter(value))) if isinstance(value, dict) and value else key
    return ConfigError(f"{origin_of(within, origins)}{dotted(key)} {problem}")


def origin_of(key: Key, origins: Origins) -> str:
    """Where a setting, else one inside it, else one around it was set, with a colon; empty for a default."""
    within = [known for known in origins if known[: len(key)] == key]
    around = [key[:length] for length in range(len(key) - 1, 0, -1)]
    found = next((origins[k] for k in (key, *within, *around) if k in origins), "")
    return f"{found}: " if found else ""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name most similar to `name`, ignoring case; empty if none is similar."""
    by_lower = {other.lower(): other for other in known if other}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else ""


def dotted(key: Key) -> str:
    """A key as errors write it: `rewards[0].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def shown(value: object) -> str:
    """A value as errors write it."""
    return "nothing (null)" if value is None else repr(value)
