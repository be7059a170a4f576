"""Fills in `${…}`, and keeps what came from the environment out of everything that is shown or saved.

A variable may hold a key or a password. So text that an interpolation of the environment gave is `FromEnvironment`:
components use its value, while messages, `--dry-run`, config.yaml and trackers show the interpolation. Numbers, truth
values and choices are no secrets, and a record of the run needs them: they are shown and saved as they are.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException
from omegaconf.resolvers import oc

from ssr1_rl.config.kinds import Key, dotted, entries
from ssr1_rl.config.values import Origins, origin_of
from ssr1_rl.errors import ConfigError

MIN_SECRET_CHARACTERS = 6
"""Shorter values are not searched for in messages: they are no secrets, and occur by chance."""


class FromEnvironment(str):
    """Text that came from the environment; its repr is the interpolation, not the value.

    Attributes:
        written: the interpolation, such as `${oc.env:JUDGE_KEY}`.
        is_part: the interpolation gives a list or a mapping, and this is one of its entries.
    """

    __slots__ = ("is_part", "written")
    written: str
    is_part: bool

    def __new__(cls, value: str, written: str, is_part: bool = False) -> "FromEnvironment":
        text = super().__new__(cls, value)
        text.written, text.is_part = written, is_part
        return text

    def __getnewargs__(self) -> tuple[str, str, bool]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return str(self), self.written, self.is_part

    def __repr__(self) -> str:
        return repr(self.written)


def plain(value: object) -> Any:
    """`value` with the text of every `FromEnvironment` in it, for code that is not ours."""
    if isinstance(value, Mapping):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, FromEnvironment) else value


def without_values(text: str, settings: object) -> str:
    """`text`, which code that is not ours made, with each value that came from the environment as its interpolation."""
    for found in _texts(settings):
        if len(found) >= MIN_SECRET_CHARACTERS:
            text = text.replace(str(found), found.written)
    return text


def as_written(value: object) -> object:
    """`value` as a launch file may hold it: what came from the environment as its interpolation."""
    if isinstance(value, FromEnvironment):
        return value.written
    if isinstance(value, str):
        # A literal `${` needs a backslash, and each backslash before it another one.
        return re.sub(r"(\\*)\$\{", lambda found: f"{found[1] * 2}\\${{", value)
    parts = [inner for _, inner in entries(value)]
    whole = next((text.written for text in _texts(value) if text.is_part), None)
    if parts and whole is not None and all(text.is_part and text.written == whole for text in _texts(value)):
        return whole
    if isinstance(value, list | tuple):
        return [as_written(inner) for inner in value]
    return {name: as_written(inner) for name, inner in entries(value)} if isinstance(value, dict) else value


def resolved(values: object, origins: Origins, needed: Collection[str] | None = None) -> Any:
    """`values` with every `${…}` replaced by its value.

    Args:
        needed: sections that are used; elsewhere an interpolation stays as it is written if the variable or setting
            that it names is not set. None: all.

    Raises:
        ConfigError: an interpolation that has no value, with the setting and the fix.
    """
    for key, text in _interpolations(values, ()):
        try:
            OmegaConf.create({"value": text})
        except OmegaConfBaseException as error:
            raise ConfigError(
                f"{origin_of(key, origins)}{dotted(key)}: {text!r} is not a valid interpolation; "
                "write ${oc.env:NAME} or ${section.setting}, and \\${ for a literal ${"
            ) from error
    tree = OmegaConf.create(values)  # type: ignore[arg-type]
    variables = _Variables()
    OmegaConf.register_resolver("oc.env", variables.resolver(), replace=True)
    try:
        return _filled(values, tree, (), _Leaf(variables, origins, needed))
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)


def is_resolved(value: object) -> bool:
    """Whether no text in what `resolved` gave still waits for a variable of the environment."""
    return not any(str(text) == text.written for text in _texts(value))


class _Variables:
    """Notes which variables of the environment are read, and which of them are not set."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.missing = ""

    def resolver(self) -> Callable[..., object]:
        def from_environment(name: str, *default: object) -> object:
            self.read.append(name)
            try:
                return oc.env(name, *default)
            except KeyError:
                self.missing = name
                raise

        return from_environment


class _Leaf:
    """Resolves single interpolations of one tree."""

    def __init__(self, variables: _Variables, origins: Origins, needed: Collection[str] | None) -> None:
        self._variables, self._origins, self._needed = variables, origins, needed

    def value(self, key: Key, text: str, node: Any) -> object:
        """The value of the interpolation `text` at `key`, the last entry of the container `node`."""
        self._variables.read.clear()
        self._variables.missing = ""
        try:
            value = node[key[-1]]
            if isinstance(value, DictConfig | ListConfig):
                value = OmegaConf.to_container(value, resolve=True)
        except (OmegaConfBaseException, RecursionError) as error:
            lacks_value = self._variables.missing or isinstance(error, InterpolationToMissingValueError)
            if lacks_value and self._needed is not None and key[0] not in self._needed:
                return FromEnvironment(text, text)
            place = f"{origin_of(key, self._origins)}{dotted(key)}"
            if self._variables.read and not self._variables.missing:
                # The cause may hold the variable's value: it is not kept.
                names = ", ".join(dict.fromkeys(self._variables.read))
                raise ConfigError(
                    f"{place}: {text!r} cannot be made of what {names} holds in the environment"
                ) from None
            raise ConfigError(f"{place}{self._problem(error)}") from error
        return _marked(value, text, False) if self._variables.read else value

    def _problem(self, error: Exception) -> str:
        if name := self._variables.missing:
            return (
                f" needs the environment variable {name}, which is not set: set it, or give a default: "
                f"${{oc.env:{name},…}}"
            )
        if isinstance(error, RecursionError):
            return ": refers to itself; give it a value"
        cause = str(error).splitlines()[0]
        return f": {cause.rpartition(' raised while resolving interpolation: ')[2].strip(chr(34))}"


def _filled(value: object, node: Any, key: Key, leaf: _Leaf) -> object:
    if isinstance(value, list):
        return [_entry(inner, node, (*key, i), leaf) for i, inner in enumerate(value)]
    return {name: _entry(inner, node, (*key, name), leaf) for name, inner in entries(value)}


def _entry(value: object, node: Any, key: Key, leaf: _Leaf) -> object:
    if isinstance(value, str):
        return leaf.value(key, value, node) if "${" in value else value
    return _filled(value, node[key[-1]], key, leaf) if isinstance(value, dict | list) else value


def _marked(value: object, written: str, is_part: bool) -> object:
    if isinstance(value, str):
        return FromEnvironment(value, written, is_part)
    if isinstance(value, list):
        return [_marked(inner, written, True) for inner in value]
    return {name: _marked(inner, written, True) for name, inner in entries(value)} if isinstance(value, dict) else value


def _interpolations(value: object, key: Key) -> list[tuple[Key, str]]:
    if isinstance(value, str):
        return [(key, value)] if "${" in value else []
    return [found for name, inner in entries(value) for found in _interpolations(inner, (*key, name))]


def _texts(value: object) -> list[FromEnvironment]:
    if isinstance(value, FromEnvironment):
        return [value]
    return [text for _, inner in entries(value) for text in _texts(inner)]
