"""Builds the dataclasses of `ssr1_rl.config.sections` from plain values, with errors in the terms of a launch file.

Every error says where a value came from (file and line, or override), which setting, its value, and the fix.
"""

import contextlib
import dataclasses
import difflib
import math
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from omegaconf import MISSING

from ssr1_rl.config.kinds import Key, dotted, entries, holds_settings, inner_kind, is_section
from ssr1_rl.config.setting import HOLDS, in_digits, limits
from ssr1_rl.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Section = TypeVar("Section", bound="DataclassInstance")

Origins = Mapping[Key, str]
"""Where each value was set: "launch/local.yaml:7", or "override 'grpo.group_size=1'"."""

IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_TRUE, _FALSE = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


def lay_over(base: object, values: object, kind: object, key: Key, origins: Origins) -> object:
    """Merges `values` over `base`: sections and mappings entry by entry, a list by index (`{0: …}`) or as a whole.

    An empty mapping empties a mapping. New entries that are sections start from their defaults. `build_section` later
    refuses what does not fit `kind`.

    Raises:
        ConfigError: a list has no entry of an index in `values`.
    """
    if isinstance(values, list) and typing.get_origin(kind) is list:
        return [lay_over(None, inner, inner_kind(kind, 0), (*key, i), origins) for i, inner in enumerate(values)]
    if not isinstance(values, dict):
        return values
    by_index = isinstance(base, list | tuple) and bool(values) and all(isinstance(index, int) for index in values)
    merged: dict[str | int, object]
    if by_index:
        there = entries(base)
        if missing := [index for index in values if index >= len(there)]:
            problem = f"has no entry {missing[0]}; set the whole list, or an existing entry"
            raise refused(key, origins, problem, {missing[0]: None})
        merged = dict(there)
    elif is_section(kind):
        if not isinstance(base, dict | None):
            return base
        merged = base or dataclasses.asdict(kind())  # type: ignore[operator]
    else:
        merged = base if isinstance(base, dict) and values else {}
    for name, inner in values.items():
        n = name if name in merged else str(name)
        merged = merged | {n: lay_over(merged.get(n), inner, inner_kind(kind, n), (*key, n), origins)}
    return list(merged.values()) if by_index else merged


def refuse_unknown(value: object, kind: object, key: Key, origins: Origins) -> None:
    """Refuses a setting that the schema does not have, with the nearest one that it has.

    Raises:
        ConfigError: such a setting.
    """
    for name, inner in entries(value) if holds_settings(kind) else ():
        if is_section(kind) and name not in typing.get_type_hints(kind):
            raise _unknown((*key, name), typing.get_type_hints(kind), origins)
        refuse_unknown(inner, inner_kind(kind, name), (*key, name), origins)


def refuse_missing(value: object, key: Key, where: str, optional: Collection[Key] = ()) -> None:
    """Refuses a required setting that is not set, unless it is `optional`."""
    if value == MISSING and key not in optional:
        raise ConfigError(f"{where}: {dotted(key)} is required and not set")
    for name, inner in entries(value):
        refuse_missing(inner, (*key, name), where, optional)


def build_section(kind: type[Section], value: object, key: Key, origins: Origins) -> Section:
    """Builds a section of the schema from `value`.

    Raises:
        ConfigError: a value of another type, or one out of bounds.
    """
    kinds = typing.get_type_hints(kind)
    if not isinstance(value, dict):
        example = dotted((*key, next(iter(kinds))))
        raise refused(
            key, origins, f"must hold settings ({', '.join(kinds)}; such as {example}=…), got {shown(value)}", value
        )
    section = kind(**{name: _build(kinds[name], inner, (*key, name), origins) for name, inner in value.items()})
    for spec in dataclasses.fields(section):
        found = getattr(section, spec.name)
        _check_bounds(found, spec, (*key, spec.name), origins)
        if spec.metadata.get("filled"):
            _check_filled(found, (*key, spec.name), origins)
        if spec.metadata.get("shown"):
            setattr(section, spec.name, str(found))
    return section


def _check_filled(text: str, key: Key, origins: Origins) -> None:
    """Refuses a name or a path that is empty, or that no file system takes."""
    if not text.strip():
        raise refused(key, origins, f"must not be empty, got {shown(text)}", text)
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise refused(key, origins, f"must not hold control characters, got {shown(text)}", text)


def _check_bounds(value: object, spec: "dataclasses.Field[object]", key: Key, origins: Origins) -> None:
    """Refuses a number, alone or in a tuple, that is not finite or is out of the bounds of its field."""
    if isinstance(value, tuple):
        for index, inner in enumerate(value):
            _check_bounds(inner, spec, (*key, index), origins)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if math.isnan(value) or (math.isinf(value) and spec.default != value):
        raise refused(key, origins, f"must be a finite number, got {value!r}", value)
    for words, limit in limits(spec, value).items():
        if not HOLDS[words](value, limit):
            why = f" ({spec.metadata['why']})" if spec.metadata.get("why") else ""
            raise refused(key, origins, f"must be {words} {in_digits(limit)}, got {value!r}{why}", value)


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
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and isinstance(value, bool | int | str) and str(value).strip().lower() in _TRUE + _FALSE:
        return str(value).strip().lower() in _TRUE
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return _number(kind, value)
    hint = '; write "" for empty text' if kind is str and value is None else ""
    raise refused(key, origins, f"must be {IN_WORDS[kind]}, got {shown(value)}{hint}", value)


def _number(kind: type, value: float | str) -> float:
    """A number from a launch file or from text of the environment; a whole one may be written as `1e3` or `3.0`."""
    if kind is float:
        return float(value)
    with contextlib.suppress(ValueError):
        if not isinstance(value, float):
            return int(value)
    number = float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _build_choice(choices: tuple[str | int, ...], value: object, key: Key, origins: Origins) -> str | int:
    by_name = {str(choice): choice for choice in choices}
    name = str(value).strip()
    if name in by_name:
        return by_name[name]
    near = nearest(name, by_name)
    problem = f"must be one of {', '.join(filter(None, by_name))}" + (", or empty for none" if "" in by_name else "")
    problem += f" (did you mean {near}?)" if near else ""
    raise refused(key, origins, f"{problem}, got {shown(value)}", value)


def _list_wanted(key: Key, kind: object, value: object) -> str:
    if isinstance(value, dict) and value and all(isinstance(index, int) for index in value):
        return f"has no entry {max(value)}; set the whole list, or an existing entry"
    if dataclasses.is_dataclass(kind):
        names = [spec.name for spec in dataclasses.fields(kind)]
        example = dotted((*key, 0, names[0]))
        return f"must be a list of entries that hold {', '.join(names)} (such as {example}=…), got {shown(value)}"
    wanted = ", ".join(map(str, typing.get_args(kind))) or IN_WORDS[kind]  # type: ignore[index]
    return f"must be a list ([a, b]) of {wanted}, got {shown(value)}"


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


def shown(value: object) -> str:
    """A value as errors write it."""
    return "nothing (null)" if value is None else repr(value)
