"""The types that settings have, and the names of settings within them."""

import dataclasses
import typing

Key = tuple[str | int, ...]
"""Path of a setting: ("rewards", 0, "weight")."""


def dotted(key: Key) -> str:
    """A key as errors write it: `rewards[0].weight`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


def entries(value: object) -> list[tuple[str | int, object]]:
    """The entries of a mapping or a list with their names or indices; empty for any other value."""
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return list(value.items()) if isinstance(value, dict) else []


def flat(value: object, key: Key = ()) -> dict[Key, object]:
    """Every value in nested mappings and lists by its key; an empty mapping or list has none."""
    if not isinstance(value, dict | list):
        return {key: value}
    return {k: v for name, inner in entries(value) for k, v in flat(inner, (*key, name)).items()}


def is_section(kind: object) -> bool:
    """Whether a setting of this type is a section of the schema."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def has_names(kind: object) -> bool:
    """Whether the entries of a setting of this type have names, not indices; false where anything may stand."""
    return is_section(kind) or typing.get_origin(kind) is dict


def inner_kind(kind: object, name: str | int) -> object:
    """The type of an entry of a section, a list or a mapping; `object` where anything may stand."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if is_section(kind):
        return typing.get_type_hints(kind).get(str(name), object)
    if origin in (list, tuple):
        return args[0]
    return args[1] if origin is dict else object


def kind_at(key: Key, kind: object) -> object:
    """The type of the setting `key` within a `kind`; `object` where anything may stand."""
    for name in key:
        kind = inner_kind(kind, name)
    return kind


def is_text(kind: object) -> bool:
    """Whether a setting of this type is text: free, or one of several words."""
    choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    return kind is str or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def holds_settings(kind: object) -> bool:
    """Whether a setting of this type is a section, a mapping or a list."""
    return typing.get_origin(kind) in (dict, list) or is_section(kind)
