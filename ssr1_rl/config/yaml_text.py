"""Reads and writes the YAML of launch files: each value keeps its line, and text settings keep their text.

Where a setting is text, the text is taken as it is written: `3.10`, `010`, `no` and `12:30:45` are names like any
other. Elsewhere `1e-6` is a number, `010` and `12:30:45` are text, and `yes`, `no`, `on` and `off` are truth values.
"""

import re
import typing
from pathlib import Path

import yaml

from ssr1_rl.config.kinds import Key, dotted, holds_settings, inner_kind, is_text
from ssr1_rl.config.yaml_source import composed, text_of
from ssr1_rl.errors import ConfigError

MAX_VALUES = 100_000
"""Most values of a file with its aliases expanded: a few lines of YAML can stand for billions of values."""

MAX_DEPTH = 30

_TAG = "tag:yaml.org,2002:"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF", "tTfFyYnNoO"),
    "int": (r"[-+]?(0|[1-9][0-9_]{0,400}|0x[0-9a-fA-F]{1,300})", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": (r"<<", "<"),
}
"""What an unquoted scalar can be besides text: its pattern, and the characters that it may begin with."""

_TRUE = ("true", "yes", "on")

Entries = dict[str | int, tuple[yaml.Node, yaml.Node]]
"""Nodes of a mapping: each name's, and its value's."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes text exactly where `_Loader` would read something else."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # In plain style PyYAML reads these line breaks back as another one.
    style = '"' if re.search("[\r\x85\u2028\u2029]", text) else None
    return dumper.represent_scalar(_TAG + "str", text, style)


_Dumper.add_representer(str, _text_node)
for _name, (_pattern, _first) in _PLAIN.items():
    # PyYAML keeps the resolver of an empty scalar under the empty string.
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})$"), [*_first, *[""] * (_name == "null")])
_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def read_file(path: Path, kind: object) -> tuple[object, dict[Key, str]]:
    """The values of a YAML file that holds a `kind`, and the place of each: "launch/local.yaml:7".

    Raises:
        ConfigError: there is no such file, or it cannot be read as YAML; the message gives the line and the fix.
    """
    places: dict[Key, str] = {}
    node = composed(text_of(path), str(path), _Loader)
    return (None if node is None else _Reader(str(path), places).value(node, kind, ())), places


def read_value(text: str, kind: object, key: Key, origin: str) -> object:
    """The value of an override. Text is taken as it is, unless all of it is quoted; brackets hold YAML."""
    if not text:
        return ""
    if text[0] not in ("\"'" if is_text(kind) else "\"'[{"):
        tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))
        return _scalar(yaml.ScalarNode(tag, text), kind)
    try:
        node = yaml.compose(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        if is_text(kind):
            return text
        raise ConfigError(
            f"{origin}: {text!r} is not a YAML value; close its brackets and quotes, or quote the whole: "
            f"{dotted(key)}='\"…\"'"
        ) from error
    assert node is not None, "a bracket or a quote begins a value"
    whole = isinstance(node, yaml.ScalarNode) and node.end_mark.index == len(text.rstrip())
    return text if is_text(kind) and not whole else _Reader(origin, None).value(node, kind, key)


def write(values: object) -> str:
    """`values` as YAML that `read_file` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)


def read_plain(text: str) -> object:
    """The values of YAML that `write` wrote.

    Raises:
        ConfigError: it is damaged.
    """
    node = composed(text, "config.yaml", _Loader)
    return None if node is None else _Reader("config.yaml", None).value(node, object, ())


class _Reader:
    """Turns YAML nodes into plain values.

    Args:
        where: the file, or the override; errors begin with it.
        places: where each value stands, by its key, which the reader fills; None for an override, which has no lines.
    """

    def __init__(self, where: str, places: dict[Key, str] | None) -> None:
        self._where, self._places = where, places
        self._open: list[yaml.Node] = []
        self._num_values = 0

    def value(self, node: yaml.Node, kind: object, key: Key) -> object:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise self._error(node, f"the file stands for more than {MAX_VALUES:,} values; write fewer aliases (*name)")
        if any(node is outer for outer in self._open):
            raise self._error(node, f"{dotted(key)} is an alias (*name) of something that contains it; write it out")
        if not isinstance(node, yaml.ScalarNode):
            self._check_tag(node, key, ("map", "seq"))
            if len(self._open) == MAX_DEPTH:
                raise self._error(node, f"{dotted(key)} is nested more than {MAX_DEPTH} deep")
            self._open.append(node)
            values = (
                self._mapping(node, kind, key) if isinstance(node, yaml.MappingNode) else self._list(node, kind, key)
            )
            self._open.pop()
            return values
        self._check_tag(node, key, ("str", *_PLAIN))
        return _scalar(node, kind)

    def _mapping(self, node: yaml.MappingNode, kind: object, key: Key) -> dict[str | int, object]:
        values: dict[str | int, object] = {}
        is_free = kind is object or typing.get_origin(kind) is list
        for name, (key_node, inner) in self._entries(node, key, is_free).items():
            child, inner_is = (*key, name), inner_kind(kind, name)
            value = self.value(inner, inner_is, child)
            if value is None and self._places is not None and holds_settings(inner_is):
                # Every line of the section is commented out: it keeps its defaults.
                if typing.get_origin(inner_is) is list:
                    continue
                value = {}
            self._set_at(child, key_node)
            values[name] = value
        return values

    def _list(self, node: yaml.Node, kind: object, key: Key) -> list[object]:
        found = []
        for index, inner in enumerate(node.value):
            self._set_at((*key, index), inner)
            found.append(self.value(inner, inner_kind(kind, index), (*key, index)))
        return found

    def _entries(self, node: yaml.MappingNode, key: Key, is_free: bool) -> Entries:
        """The entries by name. The mapping's own win over those that `<<` merges in.

        Args:
            is_free: whether a name that is a number stays one, as in a list by index; other names are text.
        """
        own: Entries = {}
        merged: Entries = {}
        for key_node, inner in node.value:
            if key_node.tag == f"{_TAG}merge":
                for source in inner.value if isinstance(inner, yaml.SequenceNode) else [inner]:
                    merged = self._merged_in(source, key, is_free) | merged
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a name must be text; write values that begin with { or [ in quotes")
            number = _scalar(key_node, object)
            name = number if is_free and type(number) is int else key_node.value
            if name in own:
                first = own[name][0].start_mark.line + 1
                raise self._error(key_node, f"{dotted((*key, name))} is set twice (first in line {first}); remove one")
            own[name] = (key_node, inner)
        return own | {name: entry for name, entry in merged.items() if name not in own}

    def _merged_in(self, source: yaml.Node, key: Key, is_free: bool) -> Entries:
        if not isinstance(source, yaml.MappingNode):
            raise self._error(source, "<< merges only names and values (<<: *name)")
        if any(source is outer for outer in self._open):
            raise self._error(source, f"{dotted(key)} merges itself; write it out")
        self._open.append(source)
        entries = self._entries(source, key, is_free)
        self._open.pop()
        return entries

    def _set_at(self, key: Key, node: yaml.Node) -> None:
        if self._places is not None:
            self._places[key] = f"{self._where}:{node.start_mark.line + 1}"

    def _check_tag(self, node: yaml.Node, key: Key, known: tuple[str, ...]) -> None:
        if node.tag.removeprefix(_TAG) not in known:
            tag = node.tag.replace(_TAG, "!!")
            raise self._error(node, f"{dotted(key)} has the YAML tag {tag}, and a launch file holds plain values only")

    def _error(self, node: yaml.Node, problem: str) -> ConfigError:
        line = f":{node.start_mark.line + 1}" if self._places is not None and node.start_mark else ""
        return ConfigError(f"{self._where}{line}: {problem}")


def _scalar(node: yaml.ScalarNode, kind: object) -> object:
    tag, text = node.tag.removeprefix(_TAG), node.value
    if tag == "null":
        return None
    if is_text(kind) or tag in ("str", "merge"):
        return text
    if tag == "bool":
        return text.lower() in _TRUE
    digits = text.replace("_", "")
    try:
        return int(digits, 0) if tag == "int" else float(re.sub(r"\.(inf|nan)", r"\1", digits, flags=re.IGNORECASE))
    except ValueError:
        return text  # an explicit tag: !!int x
