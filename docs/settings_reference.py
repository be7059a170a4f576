"""Writes the list of all settings in docs/settings.md from the schema. Run it after changing a setting."""

import ast
import dataclasses
import inspect
import typing
from pathlib import Path

import yaml
from omegaconf import MISSING

from ssr1_rl.config.schema import Config
from ssr1_rl.config.setting import in_digits
from ssr1_rl.config.values import IN_WORDS

PAGE = Path(__file__).parent / "settings.md"
COMMAND = "python docs/settings_reference.py"
START, END = f"<!-- Written by {COMMAND} -->\n", "<!-- End of what is written -->\n"


def with_reference(page: str) -> str:
    """The page with the current list of all settings between its two markers."""
    before, _, rest = page.partition(START)
    _, end, after = rest.partition(END)
    assert end, f"the page must hold the lines {START!r} and {END!r}"
    return before + START + "".join(_table(names, kind) for kind, names in sections().items()) + END + after


def sections(outer: type = Config, prefix: str = "") -> dict[type, list[str]]:
    """Every section in `outer`, in order, with the names under which a launch file holds it."""
    found: dict[type, list[str]] = {}
    for name, kind in typing.get_type_hints(outer).items():
        if section := section_in(kind):
            place = prefix + name + {list: ".0", dict: ".NAME"}.get(typing.get_origin(kind) or kind, "")
            for inner, names in [(section, [place]), *sections(section, f"{place}.").items()]:
                found.setdefault(inner, []).extend(names)
    return found


def explanations(section: type) -> dict[str, str]:
    """The docstrings under a section's settings."""
    [node] = ast.parse(inspect.getsource(section)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return found


def section_in(kind: type) -> type | None:
    """The section that a setting of this type holds, or holds several of; None if it holds none."""
    parts = (kind, *typing.get_args(kind))
    return next((part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def _table(names: list[str], section: type) -> str:
    kinds, explained = typing.get_type_hints(section), explanations(section)
    lines = [f"### {', '.join(f'`{name}`' for name in names)}", "", inspect.getdoc(section) or "", ""]
    lines += ["| setting | value | default | |", "|---|---|---|---|"]
    for spec in dataclasses.fields(section):
        if inner := section_in(kinds[spec.name]):
            cells = [f"see `{sections()[inner][0]}`", "", explained.get(spec.name) or inspect.getdoc(inner) or ""]
        else:
            cells = [_values(kinds[spec.name], spec), _default(spec), explained.get(spec.name, "")]
        lines.append(" | ".join([f"| `{spec.name}`", *(cell.replace("|", "\\|") for cell in cells), ""]).rstrip())
    return "\n".join([*lines, "", ""])


def _values(kind: type, spec: "dataclasses.Field[object]") -> str:
    """What a setting may be: its choices, or its type and bounds."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" if choice != "" else "empty" for choice in args)
    choices = ", ".join(f"`{choice}`" for choice in typing.get_args(args[0])) if origin is list else ""
    in_words = {list: f"list of {choices or 'text'}", tuple: f"list of {len(args)} numbers", dict: "names and values"}
    bounds = [f"{words} {in_digits(limit)}" for words, limit in spec.metadata.get("bounds", {}).items()]
    why = f" ({spec.metadata['why']})" if spec.metadata.get("why") else ""
    return ", ".join([in_words.get(origin) or IN_WORDS[kind].removeprefix("a "), *bounds]) + why


def _default(spec: "dataclasses.Field[object]") -> str:
    """The default as a launch file would hold it."""
    factory = spec.default_factory
    value = spec.default if factory is dataclasses.MISSING else factory()
    if value == MISSING:
        return "required"
    if value in ("", {}, []):
        return "empty"
    plain = list(value) if isinstance(value, tuple) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True, width=10**6).splitlines()[0]}`"


if __name__ == "__main__":
    PAGE.write_text(with_reference(PAGE.read_text()))
